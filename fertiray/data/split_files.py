"""The file of a split: which images are in which part, by their pixels.

JSON, one object::

    kind, version, seed, rule
    digest         of the split: pixels, labels and parts
    data_digest    of the data: LabelledCrops.digest
    tasks          class names by task
    sizes          by part: n, and the number of each class by task
    names, digests, labels
                   by part, in the same order: path, pixel digest, label (``EXP=1 ICM=A`` for
                   several tasks)
    excluded       name, reason and detail of every image that was left out
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fertiray import storage
from fertiray.errors import InputError

if TYPE_CHECKING:
    from fertiray.data.labelled import LabelledCrops

KIND = "fertiray split"
VERSION = 1


def save(
    place: str,
    crops: LabelledCrops,
    parts: Mapping[str, NDArray[np.int64]],
    *,
    seed: int,
    rule: str,
) -> str:
    """Writes a split.

    Args:
        place: file to write, local or ``s3://``.
        crops: the data.
        parts: indices by part.
        seed: that it was made with.
        rule: how it was made.

    Returns:
        The digest of the split.
    """
    columns = {
        "names": {part: [crops.names[i] for i in picked] for part, picked in parts.items()},
        "digests": {part: [crops.digests[i] for i in picked] for part, picked in parts.items()},
        "labels": {part: [crops.label(i) for i in picked] for part, picked in parts.items()},
    }
    digest = _digest(columns["digests"], columns["labels"])
    record = {
        "kind": KIND,
        "version": VERSION,
        "seed": seed,
        "rule": rule,
        "digest": digest,
        "data_digest": crops.digest,
        "tasks": {task: [*classes] for task, classes in crops.tasks.items()},
        "sizes": {part: _sizes(crops, picked) for part, picked in parts.items()},
        **columns,
        "excluded": [
            {"name": one.name, "reason": one.reason, "detail": one.detail} for one in crops.excluded
        ],
    }
    text = json.dumps(record, indent=1, ensure_ascii=False)
    storage.write_bytes(place, text.encode("utf-8", "backslashreplace"))
    return digest


def load(place: str, crops: LabelledCrops, parts: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Finds the parts of a split in the data.

    Args:
        place: the file.
        crops: the data.
        parts: names of the parts.

    Returns:
        Sorted indices by part.

    Raises:
        InputError: no such file, another file, or data that differ from the split's.
    """
    record = _read(place)
    part_of: dict[str, str] = {}
    saved: dict[str, tuple[str, str]] = {}
    for part in parts:
        try:
            rows = zip(*(record[key][part] for key in ("digests", "names", "labels")), strict=True)
            for digest, name, label in rows:
                part_of[digest] = part
                saved[digest] = (str(name), str(label))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{place}: its part {part!r} is not whole; give the file as it was written"
            ) from error
    there = {digest: (crops.names[i], crops.label(i)) for i, digest in enumerate(crops.digests)}
    relabelled = [
        f"{name} is {label or 'ungraded'} instead of {saved[digest][1] or 'ungraded'}"
        for digest, (name, label) in there.items()
        if digest in saved and saved[digest][1] != label
    ]
    differences = [
        _counted("missing", (name for digest, (name, _) in saved.items() if digest not in there)),
        _counted("new", (name for digest, (name, _) in there.items() if digest not in saved)),
        _counted("relabelled", relabelled),
    ]
    if any(differences):
        found = "; ".join(difference for difference in differences if difference)
        raise InputError(
            f"{place}: the data are not those that were split: {found}. Restore them, or leave the"
            " split out and have one drawn"
        )
    own = np.array([part_of[digest] for digest in crops.digests])
    return {part: np.flatnonzero(own == part) for part in parts}


def _counted(what: str, names: Iterable[str]) -> str:
    found = sorted(names)
    if not found:
        return ""
    more = ", ..." if len(found) > 3 else ""
    return f"{len(found)} images {what} ({', '.join(found[:3])}{more})"


def _read(place: str) -> dict[str, Any]:
    try:
        record = json.loads(storage.read_bytes(place))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not JSON ({error}); give a split.json") from error
    if not isinstance(record, dict) or record.get("kind") != KIND:
        raise InputError(f"{place}: not the file of a split; give a split.json")
    return record


def _sizes(crops: LabelledCrops, picked: NDArray[np.int64]) -> dict[str, Any]:
    """The number of images and of each class by task."""
    sizes: dict[str, Any] = {"n": len(picked)}
    for column, (task, classes) in enumerate(crops.tasks.items()):
        count = Counter(crops.targets[picked, column].tolist())
        sizes[task] = {name: count[number] for number, name in enumerate(classes)}
    return sizes


def _digest(digests: Mapping[str, list[str]], labels: Mapping[str, list[str]]) -> str:
    lines = sorted(
        f"{part} {digest} {label}"
        for part in digests
        for digest, label in zip(digests[part], labels[part], strict=True)
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
