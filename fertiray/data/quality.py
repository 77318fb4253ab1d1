"""What is in a labelled set, and what is wrong with it: ``fertiray data check``."""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fertiray import storage
from fertiray.data.datasets import Item, Listing, recognise
from fertiray.data.images import Pixels
from fertiray.data.labelled import Known, blurred, by_task, checked
from fertiray.data.reading import Excluded, Picture, read_pictures
from fertiray.data.splits import join_groups
from fertiray.data.twins import contradictions, described, find_twins
from fertiray.errors import InputError

COLUMNS = ("name", "finding", "detail")


def quality_report(location: str, known: Known) -> dict[str, Any]:
    """Looks through a labelled set; nothing is changed or dropped.

    Args:
        location: any of :mod:`fertiray.data.datasets`, local or ``s3://``.
        known: class names that the paper knows, as for ``load_labelled``.

    Returns:
        ``data``; ``dataset`` (its title); ``images`` (readable), ``usable`` (without what is left
        out of training), ``groups`` and ``patients`` (of the usable); ``classes`` {task: {class:
        usable images}}, ``facets`` {facet: {value: {label: usable images}}}; ``sizes`` in px
        {``width``, ``height``: {min, median, max}}; ``counts`` (findings by kind) and the findings
        themselves: ``missing``, ``unreadable``, ``ungraded``, ``contradictions``, ``blurred``
        [{name, detail}], ``duplicates`` [{names}] with the same pixels and no contradiction, and
        ``near_duplicates`` [{names, similarity}].

    Raises:
        InputError: nothing there, or a label that the paper does not know.
    """
    tasks = by_task(known)
    listing = Listing.of(location)
    pictures, excluded = read_pictures(checked(listing, tasks), _nothing)
    if not pictures:
        raise InputError(
            f"{location}: no readable image with a label; give class folders, a labels.csv or a"
            " labelled crop store"
        )
    twins = find_twins(pictures)
    left_out = contradictions(pictures, twins)
    kept = [index for index in range(len(pictures)) if index not in left_out]
    usable = [pictures[index] for index in kept]
    patients = [picture.patient for picture in usable]
    clusters = [str(cluster) for cluster in twins.clusters[kept].tolist()]
    findings = {
        **{reason: _listed(excluded, reason) for reason in ("missing", "unreadable", "ungraded")},
        "contradictions": _listed(left_out.values(), "contradiction"),
        "duplicates": _identical(usable),
        "near_duplicates": [
            {"names": [pictures[i].name, pictures[j].name], "similarity": round(score, 3)}
            for i, j, score in twins.pairs
        ],
        "blurred": _listed(blurred(pictures).values(), "blurred"),
    }
    return {
        "data": location,
        "dataset": recognise(listing).TITLE,
        "images": len({picture.name for picture in pictures}),
        "usable": len(usable),
        "groups": len({*join_groups(patients, clusters).tolist()}) if usable else 0,
        "patients": len({*patients} - {None}),
        "classes": {
            task: {name: sum(p.labels.get(task) == name for p in usable) for name in classes}
            for task, classes in tasks.items()
        },
        "facets": _facets(usable),
        "sizes": {
            "width": _range([picture.width for picture in pictures]),
            "height": _range([picture.height for picture in pictures]),
        },
        "counts": {kind: len(found) for kind, found in findings.items()},
        **findings,
    }


def write_csv(report: Mapping[str, Any], place: str) -> None:
    """Writes the findings of a report as a table: one row for each image of each finding.

    Args:
        report: of :func:`quality_report`.
        place: file to write, local or ``s3://``; columns name, finding, detail.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for kind in report["counts"]:
        for found in report[kind]:
            if "name" in found:
                table.writerow([found["name"], kind, found["detail"]])
                continue
            for name in found["names"]:
                others = ", ".join(other for other in found["names"] if other != name)
                alike = f" ({found['similarity']:.3f})" if "similarity" in found else ""
                table.writerow([name, kind, f"{others}{alike}"])
    storage.write_bytes(place, text.getvalue().encode("utf-8", "backslashreplace"))


def _nothing(item: Item, image: Pixels) -> tuple[Pixels, bool]:
    """Keeps none of an image's pixels."""
    del item
    return image[:0], True


def _listed(excluded: Iterable[Excluded], reason: str) -> list[dict[str, str]]:
    by_name = {one.name: one for one in excluded if one.reason == reason}
    return [{"name": name, "detail": by_name[name].detail} for name in sorted(by_name)]


def _identical(pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    names = defaultdict(list)
    for picture in pictures:
        names[picture.digest].append(picture.name)
    return [{"names": found} for found in sorted(names.values()) if len(found) > 1]


def _facets(pictures: Sequence[Picture]) -> dict[str, dict[str, dict[str, int]]]:
    found: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for picture in pictures:
        for facet, value in picture.facets.items():
            found[facet][value][described(picture.labels)] += 1
    return {
        facet: {value: dict(sorted(values[value].items())) for value in sorted(values)}
        for facet, values in sorted(found.items())
    }


def _range(values: Sequence[int]) -> dict[str, int]:
    return {"min": min(values), "median": int(np.median(values)), "max": max(values)}
