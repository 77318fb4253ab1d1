"""Segmented heads against expert annotations, and head shapes by class.

A detection is right if its mask overlaps an annotated head (nucleus and acrosome together) with
an intersection over union of at least one half; each annotation and each detection counts once.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from fertiray import storage
from fertiray.data.aspect import otsu_aspect
from fertiray.data.images import ImageError, Pixels, decode
from fertiray.data.segmentation import Head, estimate_head_length, head_mask, segment_field
from fertiray.errors import InputError

MATCH_IOU = 0.5

_IMAGES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_SESSION = re.compile(r"\d{4}-\d{2}-\d{2}")
_SAMPLE = 24


@dataclass(frozen=True)
class _Annotated:
    """One annotated head: its pixels inside a box, and where its acrosome lies."""

    box: tuple[int, int, int, int]  # x0, y0, x1, y1
    mask: npt.NDArray[np.bool_]
    direction: float | None  # degrees, nucleus to acrosome


@dataclass
class _Tally:
    fields: int = 0
    annotated: int = 0
    detected: int = 0
    ious: list[float] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        matched = len(self.ious)
        precision = matched / self.detected if self.detected else None
        recall = matched / self.annotated if self.annotated else None
        total = self.detected + self.annotated
        return {
            "fields": self.fields,
            "annotated": self.annotated,
            "detected": self.detected,
            "matched": matched,
            "precision": precision,
            "recall": recall,
            "f1": 2 * matched / total if total else None,
            "mean_iou": float(np.mean(self.ious)) if matched else None,
        }


def evaluate_fields(
    folder: str, only: str | None = None, exclude: str | None = None
) -> dict[str, Any]:
    """Segments annotated fields and compares.

    Args:
        folder: holds ``images/`` and ``annotations.json``: file name -> {"width", "height",
            "sperm": {id: {"nucleus" and "acrosome": lists of polygons [[x, y], ...]}}}.
        only: regular expression; fields whose file name it finds nothing in are left out.
        exclude: regular expression; fields whose file name it finds something in are left out.

    Returns:
        Counts ``fields, annotated, detected, matched``; ``precision, recall, f1, mean_iou`` (of the
        matched; None where not defined); ``head_length`` in px, estimated from the fields;
        ``seconds_per_field`` {mean, median, p95}: CPU seconds of one core, decoding included;
        ``acrosome_up_fraction`` and ``acrosome_error_deg`` (median): directions against the
        annotated nucleus-to-acrosome direction; ``rejected`` {reason: candidates}; ``by_session``:
        the counts and rates by the date in the file name.

    Raises:
        InputError: a file is missing or unusable, or no field is left to evaluate.
    """
    annotations = _annotations(folder)
    names = _chosen(sorted(annotations), only, exclude)
    if not names:
        raise InputError(f"{folder}: no annotated field left; relax --only and --exclude")
    head_length = _head_length(storage.join(folder, "images", name) for name in _sample(names))
    whole, sessions = _Tally(), dict[str, _Tally]()
    seconds, errors, rejected = [], [], Counter[str]()
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        for name in names:
            data = storage.read_bytes(storage.join(folder, "images", name))
            start = time.thread_time()
            image = _decoded(data, name)
            found = segment_field(image, head_length or None)
            seconds.append(time.thread_time() - start)
            truth = [head for one in annotations[name]["sperm"].values() for head in _heads(one)]
            pairs = _match(found.heads, truth, image.shape[:2])
            date = _SESSION.search(name)
            session = sessions.setdefault(date.group() if date else "undated", _Tally())
            for tally in (whole, session):
                tally.fields += 1
                tally.annotated += len(truth)
                tally.detected += len(found.heads)
                tally.ious += [iou for _, _, iou in pairs]
            rejected.update(head.reason for head in found.rejected)
            errors += [
                abs((direction - head.angle + 180) % 360 - 180)
                for head, annotated, _ in pairs
                if (direction := annotated.direction) is not None
            ]
    finally:
        cv2.setNumThreads(threads)
    return {
        **whole.row(),
        "head_length": head_length,
        "acrosome_up_fraction": float(np.mean(np.array(errors) < 90)) if errors else None,
        "acrosome_error_deg": float(np.median(errors)) if errors else None,
        "seconds_per_field": {
            "mean": float(np.mean(seconds)),
            "median": float(np.median(seconds)),
            "p95": float(np.percentile(seconds, 95)),
        },
        "rejected": dict(sorted(rejected.items())),
        "by_session": [{"session": key, **sessions[key].row()} for key in sorted(sessions)],
    }


def evaluate_single(folder: str) -> dict[str, Any]:
    """Segments images of one sperm each, in class folders, and reports the heads' shapes.

    Args:
        folder: class folders with images.

    Returns:
        ``images``, ``unreadable``, ``exactly_one_fraction``, ``head_length`` in px (estimated over
        all classes) and ``classes``: per class ``name, images, exactly_one_fraction``, ``aspect``
        (long over short side of the minimum-area rectangle: {median, q1, q3}), ``otsu_aspect``
        (median by the plain method, Otsu's threshold on the green channel, largest blob) and
        ``rejected``: reason of the largest candidate of images without a head.

    Raises:
        InputError: the folder holds no class folders with images.
    """
    by_class = _class_folders(folder)
    everything = [place for places in by_class.values() for place in places]
    head_length = _head_length(_sample(everything))
    rows = [_class_row(name, by_class[name], head_length) for name in sorted(by_class)]
    readable = sum(row["images"] for row in rows)
    ones = sum(round(row["exactly_one_fraction"] * row["images"]) for row in rows if row["images"])
    return {
        "images": readable,
        "unreadable": len(everything) - readable,
        "exactly_one_fraction": ones / readable if readable else None,
        "head_length": head_length,
        "classes": rows,
    }


# Sessions that no rule or number of the segmentation was fitted to.
LEFT_OUT = "2023-05-"


def record_of(data: str) -> dict[str, Any]:
    """The result of record: annotated fields, developed on and left out, and single-head sets.

    Args:
        data: folder with ``smear_fields``, ``hushem`` and ``smids``.

    Returns:
        ``fields`` (``developed on``, ``left out``, ``all``: see :func:`evaluate_fields`) and
        ``single`` (by set: see :func:`evaluate_single`).

    Raises:
        InputError: a set is missing.
    """
    smears = storage.join(data, "smear_fields")
    return {
        "fields": {
            "developed on": evaluate_fields(smears, exclude=LEFT_OUT),
            "left out": evaluate_fields(smears, only=LEFT_OUT),
            "all": evaluate_fields(smears),
        },
        "single": {
            name: evaluate_single(storage.join(data, folder))
            for name, folder in (("HuSHeM", "hushem"), ("SMIDS", "smids"))
        },
    }


def _class_row(name: str, places: list[str], head_length: float) -> dict[str, Any]:
    aspects, plain, rejected, images = [], [], Counter[str](), 0
    for image in _readable(places):
        images += 1
        found = segment_field(image, head_length or None, single=True)
        if found.heads:
            aspects.append(found.heads[0].aspect)
        else:
            largest = max(found.rejected, key=lambda head: head.area, default=None)
            rejected[largest.reason if largest else "nothing"] += 1
        otsu = otsu_aspect(image)
        if otsu is not None:
            plain.append(otsu)
    quartiles = np.percentile(aspects, [25, 50, 75]).tolist() if aspects else [None] * 3
    return {
        "name": name,
        "images": images,
        "exactly_one_fraction": len(aspects) / images if images else None,
        "aspect": {"median": quartiles[1], "q1": quartiles[0], "q3": quartiles[2]},
        "otsu_aspect": float(np.median(plain)) if plain else None,
        "rejected": dict(sorted(rejected.items())),
    }


def _annotations(folder: str) -> dict[str, Any]:
    place = storage.join(folder, "annotations.json")
    try:
        found = json.loads(storage.read_bytes(place))
    except ValueError as error:
        raise InputError(f"{place}: not JSON ({error}); expected file name -> sperm") from error
    if not isinstance(found, dict) or not all(
        isinstance(value, dict) and isinstance(value.get("sperm"), dict) for value in found.values()
    ):
        raise InputError(f'{place}: every file name needs an object with "sperm"')
    return found


def _chosen(names: list[str], only: str | None, exclude: str | None) -> list[str]:
    try:
        keep, drop = re.compile(only or ""), re.compile(exclude) if exclude else None
    except re.error as error:
        raise InputError(f"--only/--exclude: not a regular expression: {error}") from error
    return [name for name in names if keep.search(name) and not (drop and drop.search(name))]


def _class_folders(folder: str) -> dict[str, list[str]]:
    root = folder.rstrip("/") + "/"
    found: dict[str, list[str]] = {}
    for place in storage.list_files(folder):
        name, inside, _ = place.removeprefix(root).partition("/")
        if inside and place.lower().endswith(_IMAGES):
            found.setdefault(name, []).append(place)
    if not found:
        raise InputError(f"{folder}: no class folders with images; expected Class/image")
    return found


def _sample(items: list[str]) -> list[str]:
    """At most a fixed number of them, evenly spread."""
    return items[:: max(1, -(-len(items) // _SAMPLE))]


def _head_length(places: Iterable[str]) -> float:
    return estimate_head_length(_readable(places))


def _readable(places: Iterable[str]) -> Iterator[Pixels]:
    for place in places:
        try:
            yield decode(storage.read_bytes(place), name=place)
        except ImageError:
            continue


def _decoded(data: bytes, name: str) -> Pixels:
    try:
        return decode(data, name=name)
    except ImageError as error:
        raise InputError(f"{name}: {error}; mend or --exclude it") from error


def _heads(sperm: dict[str, Any]) -> Iterator[_Annotated]:
    """The head of one annotated sperm; none where only a midpiece was drawn."""
    parts = {
        part: [np.round(np.array(polygon)).astype(np.int32) for polygon in sperm.get(part, [])]
        for part in ("nucleus", "acrosome")
    }
    polygons = parts["nucleus"] + parts["acrosome"]
    if not polygons:
        return
    points = np.concatenate(polygons)
    x0, y0 = points.min(axis=0).tolist()
    x1, y1 = (points.max(axis=0) + 1).tolist()
    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    centres = []
    for part in ("nucleus", "acrosome"):
        own = np.zeros_like(mask)
        for polygon in parts[part]:
            cv2.fillPoly(own, [polygon - (x0, y0)], 1)
        mask |= own
        if own.any():
            centres.append(np.argwhere(own).mean(axis=0))
    direction = None
    if len(centres) == 2:
        down, right = centres[1] - centres[0]
        direction = float(np.degrees(np.arctan2(down, right)))
    yield _Annotated((x0, y0, x1, y1), mask.astype(bool), direction)


def _match(
    heads: list[Head], truth: list[_Annotated], shape: tuple[int, ...]
) -> list[tuple[Head, _Annotated, float]]:
    """One-to-one pairs with an IoU of at least ``MATCH_IOU``, as many and as good as possible."""
    ious = np.zeros((len(heads), len(truth)))
    for row, head in enumerate(heads):
        mask = head_mask(head, (shape[0], shape[1]))
        area = np.count_nonzero(mask)
        for column, annotated in enumerate(truth):
            x0, y0, x1, y1 = annotated.box
            # A polygon may run past the field; what lies outside is not there to be found.
            left, top = max(0, -x0), max(0, -y0)
            inside = annotated.mask[top : shape[0] - y0, left : shape[1] - x0]
            window = mask[y0 + top : y1, x0 + left : x1]
            both = np.count_nonzero(window & inside)
            if both:
                ious[row, column] = both / (area + np.count_nonzero(inside) - both)
    rows, columns = linear_sum_assignment(np.where(ious >= MATCH_IOU, 1 + ious, 0), maximize=True)
    return [
        (heads[row], truth[column], float(ious[row, column]))
        for row, column in zip(rows, columns, strict=True)
        if ious[row, column] >= MATCH_IOU
    ]
