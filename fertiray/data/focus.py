"""How sharp an image is, and which images of a set are blurred beyond the set's own spread.

The variance of the Laplacian is the usual measure. Here its two halves are taken apart and the
weaker one counts, so that a picture smeared or stretched along one axis is found as well: the
Hung Vuong set holds some whose other axis is perfectly sharp.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from fertiray.data.images import Pixels

LARGEST = 256
"""Longer side in px that an image is reduced to first: the scale that networks see."""

BLURRED = -3.5
"""Robust z-score below which an image counts as blurred (Iglewicz & Hoaglin 1993)."""

FEWEST = 20
"""Images below which a set has no spread to speak of."""


def focus(image: Pixels) -> float:
    """Sharpness: log of the variance of the second derivative, along the weaker axis.

    Args:
        image: HWC uint8 RGB in [0, 255].
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    zoom = LARGEST / max(grey.shape)
    if zoom < 1:
        side = (max(1, round(grey.shape[1] * zoom)), max(1, round(grey.shape[0] * zoom)))
        grey = cv2.resize(grey, side, interpolation=cv2.INTER_AREA)
    smooth = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), 0.7)  # grain is no sharpness
    across = cv2.Sobel(smooth, cv2.CV_32F, 2, 0)
    down = cv2.Sobel(smooth, cv2.CV_32F, 0, 2)
    return float(np.log(min(across.var(), down.var()) + 1e-3))


def robust_z(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distances from the median in robust standard deviations (1.4826 times the median deviation).

    Args:
        values: one a picture.

    Returns:
        Zeros for a set that is too small or all alike.
    """
    if len(values) < FEWEST:
        return np.zeros(len(values))
    from_median = values - np.median(values)
    spread = 1.4826 * np.median(np.abs(from_median))
    return from_median / spread if spread > 0 else np.zeros(len(values))
