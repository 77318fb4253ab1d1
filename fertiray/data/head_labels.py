"""Known labels for segmented heads: from ``heads.csv`` or from class folders."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fertiray import storage
from fertiray.errors import InputError

REACH = 0.5
"""Largest distance between a labelled point and a head's centre, in head lengths."""


@dataclass(frozen=True)
class LabelledPoint:
    """The centre of a head in pixels of its field, and what it is."""

    cx: float
    cy: float
    label: str


def read_heads(folder: str) -> dict[str, list[LabelledPoint]]:
    """The labelled points of a folder's ``heads.csv``, by relative path of the field.

    Raises:
        InputError: there is no such file, or it lacks image, cx, cy or label.
    """
    place = storage.join(folder, "heads.csv")
    rows = csv.DictReader(io.StringIO(storage.read_bytes(place).decode("utf-8-sig")))
    missing = [
        name for name in ("image", "cx", "cy", "label") if name not in (rows.fieldnames or ())
    ]
    if missing:
        raise InputError(f"{place}: no column {missing[0]!r}; it needs image, cx, cy and label")
    points: dict[str, list[LabelledPoint]] = {}
    for number, row in enumerate(rows, 2):
        try:
            point = LabelledPoint(float(row["cx"]), float(row["cy"]), row["label"])
        except (TypeError, ValueError) as error:
            raise InputError(f"{place}: line {number}: cx and cy must be numbers") from error
        points.setdefault(row["image"], []).append(point)
    return points


def match(
    centres: Sequence[tuple[float, float]], points: Sequence[LabelledPoint], head_length: float
) -> list[str | None]:
    """Labels for heads, nearest pair first; a point labels one head, a head has one label.

    Args:
        centres: cx, cy of the heads, px.
        points: the labelled points of the same field.
        head_length: in px; pairs further apart than half of it are not matched.

    Returns:
        A label for each centre, None where no point is near.
    """
    labels: list[str | None] = [None] * len(centres)
    if not centres or not points:
        return labels
    places = np.array([(point.cx, point.cy) for point in points])
    distance = np.linalg.norm(np.array(centres)[:, None] - places[None], axis=2)
    for _ in range(min(distance.shape)):
        head, point = np.unravel_index(int(distance.argmin()), distance.shape)
        if distance[head, point] > REACH * head_length:
            break
        labels[int(head)] = points[int(point)].label
        distance[head, :] = np.inf
        distance[:, point] = np.inf
    return labels


def folder_class(path: str) -> str:
    """The class that a relative path's first folder names: ``01_Normal/a.bmp`` -> ``Normal``."""
    return re.sub(r"^\d+_", "", path.partition("/")[0])


def check_class_folders(paths: Iterable[str]) -> None:
    """Sees that every image lies in a class folder.

    Raises:
        InputError: one does not.
    """
    for path in paths:
        if "/" not in path:
            raise InputError(
                f"{path}: lies in no class folder; labels from folders need Class/image"
            )
