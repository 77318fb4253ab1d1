"""Touching heads cut apart: a blob that two convex bodies explain much better than one."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.uint8]
Points = npt.NDArray[np.int32]

_LEAST_AREA = 0.16
"""A part smaller than this, in squared head lengths, is no head: no cut is made for it."""

_SOLID = 0.95
"""Area over convex hull from which a blob is one body."""

_NOTCH = 0.05
_LONGEST_CUT = 0.8
"""Depth of a notch worth cutting from, and longest cut, in head lengths."""

_LEAST_GAIN = 0.02
_CUT_COST = 0.1
"""Solidity that a cut must gain, and what a cut of one head length costs of it."""

_MOST_CUTS = 6


def convex_parts(mask: Mask, length: float, cuts: int = 0) -> Iterator[Mask]:
    """Splits a blob recursively at its deepest notches.

    A cut runs from one notch of the outline to another, or to the opposite side. It is made if
    the parts together fill their convex hulls clearly better than the whole fills its own.

    Args:
        mask: (h, w) uint8, 1 in the blob, which is one piece.
        length: head length in px.
        cuts: how many cuts led here.

    Yields:
        (h, w) uint8 masks of the parts; the blob itself if it is one body.
    """
    parts = _best_cut(mask, length) if cuts < _MOST_CUTS else None
    if parts is None:
        yield mask
        return
    for part in parts:
        yield from convex_parts(part, length, cuts + 1)


def _best_cut(mask: Mask, length: float) -> tuple[Mask, Mask] | None:
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = np.asarray(max(outlines, key=cv2.contourArea), np.int32)
    area = cv2.contourArea(outline)
    if area < 2 * _LEAST_AREA * length * length:
        return None
    hull = np.asarray(cv2.convexHull(outline, returnPoints=False), np.int32)
    solidity = area / cv2.contourArea(cv2.convexHull(outline))
    if solidity > _SOLID:
        return None
    hull[::-1].sort(axis=0)  # convexityDefects wants the indices in order
    points = outline[:, 0]
    best_gain, best = _LEAST_GAIN, None
    for start, end in _cuts(points, _notches(outline, hull, length), length):
        one, two = points[start : end + 1], np.concatenate([points[end:], points[: start + 1]])
        areas = cv2.contourArea(one), cv2.contourArea(two)
        if min(areas) < _LEAST_AREA * length * length:
            continue
        hulls = sum(cv2.contourArea(cv2.convexHull(part)) for part in (one, two))
        cost = _CUT_COST * float(np.hypot(*(points[start] - points[end]))) / length
        gain = sum(areas) / hulls - solidity - cost
        if gain > best_gain:
            best_gain, best = gain, one
    if best is None:
        return None
    first = np.zeros_like(mask)
    cv2.fillPoly(first, [best.reshape(-1, 1, 2)], 1)
    return mask & first, mask & (1 - first)


def _notches(outline: Points, hull: Points, length: float) -> list[int]:
    """Positions along the outline of its deepest notches, deepest first."""
    defects = cv2.convexityDefects(outline, hull)
    if defects is None:
        return []
    defects = defects.reshape(-1, 4)
    deep = defects[defects[:, 3] > _NOTCH * length * 256]  # depth is in 1/256 px
    return [int(far) for far in deep[np.argsort(-deep[:, 3])][:8, 2]]


def _cuts(points: Points, notches: list[int], length: float) -> Iterator[tuple[int, int]]:
    """Pairs of outline positions, in order, that a cut may join."""
    for row, notch in enumerate(notches):
        for other in [*notches[row + 1 :], _across(points, notch, length)]:
            if np.hypot(*(points[notch] - points[other])) <= _LONGEST_CUT * length:
                yield min(notch, other), max(notch, other)


def _across(points: Points, notch: int, length: float) -> int:
    """The nearest outline point that is far along the outline: where a cut would come out."""
    along = np.abs(np.arange(len(points)) - notch)
    along = np.minimum(along, len(points) - along)
    distance = np.hypot(*(points - points[notch]).T)
    return int(np.argmin(np.where(along < 0.6 * length, np.inf, distance)))
