"""Signs that a candidate is a sperm: smooth inside, paler at one end, with a tail.

Strengths are relative to the field's nuclei and lengths to the head length. Shapes: H, W rows
and columns of the field; N points of a contour.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from fertiray.data.candidates import Contour
from fertiray.data.stain import Floats

_EDGE_WIDTH = 0.07
"""Rim left out of the inside: there the blurred edge rules."""

_SMOOTHING = 0.02
_TAIL_FROM, _TAIL_TO, _TAIL_STEPS = 0.10, 0.40, 10
"""Distances outside the outline between which something must continue to be a tail."""

_TAIL_ENOUGH = 0.3
"""Strength that counts in full as a tail's, so that a neighbouring head counts for no more."""


@dataclass(frozen=True)
class Signs:
    """What speaks for a sperm.

    Attributes:
        texture: mean slope of the strength inside, in nuclei per head length; a head is smooth,
            clumps and crystals are not.
        gradient: slope of the plane through the strength inside: the paler acrosome at one end.
        tail: strength of the strongest thing that leaves the outline and goes on.
    """

    texture: float
    gradient: float
    tail: float


def signs(contour: Contour, stained: Floats, nucleus: float, length: float) -> Signs:
    """Looks for the signs in and around one candidate.

    Args:
        contour: (N, 2) float32 x, y in px of the field.
        stained: (H, W) float32 strength of the field.
        nucleus: strength of the field's nuclei.
        length: head length in px.
    """
    x0, y0 = np.maximum(contour.min(axis=0).astype(int) - 2, 0).tolist()
    x1, y1 = (contour.max(axis=0).astype(int) + 3).tolist()
    strength = stained[y0:y1, x0:x1] / np.float32(nucleus)
    outline = np.round(contour - (x0, y0)).astype(np.int32).reshape(-1, 1, 2)
    mask = cv2.fillPoly(np.zeros(strength.shape, np.uint8), [outline], 1)
    depth = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    inside = depth > min(_EDGE_WIDTH * length, 0.5 * float(depth.max()))
    smooth = cv2.GaussianBlur(strength, (0, 0), max(0.5, _SMOOTHING * length))
    slope_x = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, scale=1 / 8)
    slope_y = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, scale=1 / 8)
    y, x = np.nonzero(inside)
    plane = np.stack([np.ones(len(x)), x - x.mean(), y - y.mean()], axis=1)
    normal = plane.T @ plane + 1e-6 * np.eye(3)
    _, tilt_x, tilt_y = np.linalg.solve(normal, plane.T @ strength[inside])
    return Signs(
        texture=float(np.hypot(slope_x, slope_y)[inside].mean() * length),
        gradient=float(np.hypot(tilt_x, tilt_y) * length),
        tail=_tail(contour, stained, nucleus, length),
    )


def _tail(contour: Contour, stained: Floats, nucleus: float, length: float) -> float:
    """Median strength along the best of the rays that leave the outline at right angles."""
    around = max(2, round(0.05 * length))
    padded = np.pad(contour, ((around, around), (0, 0)), mode="wrap")
    smooth = cv2.blur(padded, (1, 2 * around + 1))[around:-around]
    along = np.roll(smooth, -around, axis=0) - np.roll(smooth, around, axis=0)
    outward = np.stack([along[:, 1], -along[:, 0]], axis=1)
    outward /= np.linalg.norm(outward, axis=1, keepdims=True) + np.float32(1e-6)
    if np.sum((smooth - smooth.mean(axis=0)) * outward) < 0:
        outward = -outward
    steps = np.linspace(_TAIL_FROM, _TAIL_TO, _TAIL_STEPS, dtype=np.float32) * length
    every = max(1, round(0.03 * length))
    rays = smooth[::every, None] + outward[::every, None] * steps[None, :, None]
    x, y = np.round(rays).astype(np.int64).transpose(2, 0, 1)  # each (rays, steps)
    within = (x >= 0) & (y >= 0) & (x < stained.shape[1]) & (y < stained.shape[0])
    found = np.zeros(x.shape, np.float32)
    found[within] = np.minimum(stained[y[within], x[within]] / np.float32(nucleus), _TAIL_ENOUGH)
    beside = (np.roll(found, 1, axis=0) + found + np.roll(found, -1, axis=0)) / 3
    return float(np.median(beside, axis=1).max())
