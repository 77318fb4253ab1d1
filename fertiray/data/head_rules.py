"""One candidate head measured, and judged by rules with names.

Each rule is a length, a shape or a darkness relative to the head length and the nuclear stain of
the field, never a number of one microscope. The numbers were chosen on annotated fields: they
reject what experts leave out and keep the malformed heads that experts count.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from fertiray.data.candidates import DARK, Contour
from fertiray.data.head_axis import acrosome_direction, long_axis
from fertiray.data.head_signs import signs
from fertiray.data.stain import Floats

REJECT_REASONS = ("border", "size", "shape", "overlap", "focus", "debris", "neighbour")
"""Why a candidate is no head to score.

border: more than a quarter of it lies outside the field. size: far too small or too large for a
head. shape: not a convex body, or a thread. overlap: a clump of heads that could not be cut
apart. focus: its edge is blurred. debris: holds too little nuclear stain, is rough inside, or has
neither a tail nor a paler end. neighbour: in an image of one sperm, a head that is not the one.
"""

_LEAST_VISIBLE = 0.75
_AREAS = 0.21, 1.1
"""Smallest and largest area in squared head lengths (a typical head has 0.47)."""

_LONGEST = 2.2
_LEAST_SOLID, _LEAST_SOLID_SINGLE, _CLUMP_SOLID = 0.82, 0.75, 0.9
_MOST_ASPECT = 4.0
_LEAST_SHARP = 4.6
_LEAST_NUCLEUS = 0.38
_MOST_TEXTURE = 2.75
_LEAST_GRADIENT, _LEAST_TAIL = 0.2, 0.04
_SINGLE = 0.6
"""In an image known to show one sperm, area, nucleus and smoothness may fall this short."""


@dataclass(frozen=True)
class Head:
    """One candidate head; lengths in px of the field, x to the right, y down.

    Attributes:
        cx: centroid x.
        cy: centroid y.
        major: long side of the minimum-area rectangle.
        minor: its short side.
        angle: direction from the tail's end to the acrosome, ``atan2(dy, dx)`` in degrees [0, 360).
        aspect: major / minor.
        contour: (N, 2) float32 x, y.
        area: in square px.
        solidity: area over the area of the convex hull, in (0, 1].
        nucleus: share of the area stained at least two thirds as strongly as the nuclei, [0, 1].
        sharpness: head lengths over the width of the edge; larger is sharper.
        visible: share of the head inside the field, the rest completed to an ellipse; 1 where the
            candidate does not touch the field's edge.
        texture: roughness inside, see :class:`~fertiray.data.head_signs.Signs`.
        gradient: how much paler one end is, see there.
        tail: strength of the tail, see there.
        reason: empty if accepted, else one of ``REJECT_REASONS``.
    """

    cx: float
    cy: float
    major: float
    minor: float
    angle: float
    aspect: float
    contour: Contour
    area: float
    solidity: float
    nucleus: float
    sharpness: float
    visible: float
    texture: float
    gradient: float
    tail: float
    reason: str = ""


def measure(contour: Contour, stained: Floats, nucleus: float, head_length: float) -> Head:
    """Measures a candidate, without judging it.

    Args:
        contour: (N, 2) float32 x, y in px of the field.
        stained: (H, W) float32 strength of the field.
        nucleus: strength of the field's nuclei.
        head_length: in px.
    """
    _, sides, _ = cv2.minAreaRect(contour)
    major, minor = max(sides) + 1, min(sides) + 1  # the contour runs through pixel centres
    hull = cv2.contourArea(cv2.convexHull(contour))
    area = cv2.contourArea(contour)
    cx, cy, axis = long_axis(contour)
    x0, y0 = contour.min(axis=0).astype(int).tolist()
    x1, y1 = (contour.max(axis=0).astype(int) + 1).tolist()
    window = stained[y0:y1, x0:x1]
    mask = np.zeros(window.shape, np.uint8)
    cv2.fillPoly(mask, [(contour - (x0, y0)).astype(np.int32).reshape(-1, 1, 2)], 1)
    last = np.array(stained.shape[::-1], np.float32) - 1
    margin = 0.015 * head_length
    seen = signs(contour, stained, nucleus, head_length)
    free = contour[((contour > margin) & (contour < last - margin)).all(axis=1)]
    return Head(
        cx=cx,
        cy=cy,
        major=float(major),
        minor=float(minor),
        angle=acrosome_direction(stained, (cx, cy), axis, (major, minor), nucleus),
        aspect=float(major / minor),
        contour=contour,
        area=float(area),
        solidity=float(area / max(1.0, hull)),
        nucleus=float(np.mean(window[mask > 0] > DARK * nucleus)),
        sharpness=_sharpness(stained, free, head_length),
        visible=1.0 if len(free) == len(contour) else _visible(free, area),
        texture=seen.texture,
        gradient=seen.gradient,
        tail=seen.tail,
    )


def reason(head: Head, head_length: float, *, single: bool = False) -> str:
    """The first rule that a measured candidate breaks, or an empty string for a head."""
    area = head.area / head_length**2
    lenience = _SINGLE if single else 1.0
    if head.visible < _LEAST_VISIBLE:
        return "border"
    if area > _AREAS[1] or head.major > _LONGEST * head_length:
        return "overlap" if head.solidity < _CLUMP_SOLID else "size"
    if area < lenience * _AREAS[0]:
        return "size"
    if (
        head.solidity < (_LEAST_SOLID_SINGLE if single else _LEAST_SOLID)
        or head.aspect > _MOST_ASPECT
    ):
        return "shape"
    if head.sharpness < _LEAST_SHARP:
        return "focus"
    pale = head.nucleus < lenience * _LEAST_NUCLEUS
    rough = head.texture * lenience > _MOST_TEXTURE
    featureless = head.gradient < _LEAST_GRADIENT and head.tail < _LEAST_TAIL
    if pale or rough or featureless:
        return "debris"
    return ""


def _visible(free: Contour, area: float) -> float:
    """Area over that of the ellipse through the part of the outline inside the field."""
    if len(free) < 8:
        return 0.0
    _, axes, _ = cv2.fitEllipse(free)
    return float(min(1.0, area / max(1.0, np.pi / 4 * axes[0] * axes[1])))


def _sharpness(stained: Floats, points: Contour, head_length: float) -> float:
    """Median over the outline of the edge's slope relative to its height, in head lengths."""
    if len(points) < 8:
        return 0.0
    near, far = max(1, round(0.02 * head_length)), max(1, round(0.15 * head_length))
    left, right, up, down = _around(stained, points, near)
    slope = np.hypot(right - left, down - up) / (2 * near)
    around = np.stack(_around(stained, points, far))
    height = np.maximum(np.ptp(around, axis=0), 1e-3)
    return float(np.median(slope * head_length / height))


def _around(stained: Floats, points: Contour, step: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Strength left, right, above and below each point, replicated at the field's edge."""
    x, y = points.astype(np.int64).T
    rows, columns = stained.shape
    return (
        stained[y, np.maximum(x - step, 0)],
        stained[y, np.minimum(x + step, columns - 1)],
        stained[np.maximum(y - step, 0), x],
        stained[np.minimum(y + step, rows - 1), x],
    )
