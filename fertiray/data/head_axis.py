"""Which way a head points: its long axis, and the end with the acrosome."""

from __future__ import annotations

import cv2
import numpy as np

from fertiray.data.candidates import Contour
from fertiray.data.stain import Floats

_ROWS, _COLUMNS = 64, 32
_SPAN = 2.0
"""Length of the strip looked at, in head lengths: the head and half a length beyond each end."""

_TAIL = 0.25
"""Strength of a midpiece, as a share of the nuclei's."""


def long_axis(contour: Contour) -> tuple[float, float, float]:
    """Centroid x, y and direction (degrees in [0, 180)) of a filled contour's long axis.

    The axis is the principal one of the area's second moments: it moves smoothly where the
    minimum-area rectangle of a roundish head jumps.
    """
    moments = cv2.moments(contour.reshape(-1, 1, 2))
    cx, cy = moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]
    angle = 0.5 * np.degrees(np.arctan2(2 * moments["mu11"], moments["mu20"] - moments["mu02"]))
    return cx, cy, float(angle % 180.0)


def acrosome_direction(
    stained: Floats,
    centre: tuple[float, float],
    axis: float,
    size: tuple[float, float],
    nucleus: float,
) -> float:
    """Which of the axis's two directions leads from the tail's end to the acrosome.

    Args:
        stained: (H, W) float32 strength of the field.
        centre: x, y of the head in px.
        axis: direction of the long axis in degrees.
        size: length and width of the head in px.
        nucleus: strength of the field's nuclei.

    Returns:
        Degrees in [0, 360), image coordinates (y down).
    """
    paler, tail = end_cues(stained, centre, axis, size, nucleus)
    return axis if paler + tail >= 0 else axis + 180.0


def end_cues(
    stained: Floats,
    centre: tuple[float, float],
    axis: float,
    size: tuple[float, float],
    nucleus: float,
) -> tuple[float, float]:
    """Two independent signs that the acrosome lies in the direction of the axis.

    Args:
        stained: as in :func:`acrosome_direction`, like all others.
        centre: see there.
        axis: see there.
        size: see there.
        nucleus: see there.

    Returns:
        How much paler the head is at that end than at the other (the acrosome takes less
        nuclear stain), and how much more stain leaves the head at the other end (the tail),
        both as strength.
    """
    # strip (_ROWS, _COLUMNS): row 0 lies in the direction of the axis, one head length away
    major, minor = size
    ahead = np.array([np.cos(np.radians(axis)), np.sin(np.radians(axis))])
    down, right = -ahead * _SPAN * major / _ROWS, np.array([-ahead[1], ahead[0]]) * minor / _COLUMNS
    origin = np.array(centre) - down * (_ROWS - 1) / 2 - right * (_COLUMNS - 1) / 2
    strip = cv2.warpAffine(
        stained,
        np.stack([right, down, origin], axis=1),
        (_COLUMNS, _ROWS),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    quarter = _ROWS // 4
    head = strip[quarter + 2 : -quarter - 2, _COLUMNS // 4 : -_COLUMNS // 4].mean(axis=1)
    front, back = np.split(head, 2)
    # A neighbouring head beyond the end must not count for more than a tail does.
    thin = np.minimum(cv2.blur(strip, (5, 1)), _TAIL * nucleus)
    before = np.median(thin[: quarter - 3].max(axis=1))
    behind = np.median(thin[_ROWS - quarter + 3 :].max(axis=1))
    return float(back.mean() - front.mean()), float(behind - before)
