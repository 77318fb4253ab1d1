"""A heatmap laid over its crop.

The colours are viridis: its lightness rises evenly, it reads the same with any of the common colour
deficiencies, and its greens and yellows occur in no stained smear, whereas the purples and oranges
of inferno do. Grey crops need nothing else. Heat is also opacity, so that cold regions
show the crop as it is.
"""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

COLOURS = "viridis"
OPACITY = 0.7
"""Of the hottest pixel."""


def overlay(crop: NDArray[np.uint8], heat: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The crop with the heat over it.

    Args:
        crop: S x S x 3 uint8 RGB in [0, 255].
        heat: S x S float in [0, 1].

    Returns:
        S x S x 3 uint8 RGB.
    """
    colour = mpl.colormaps[COLOURS](heat)[..., :3] * 255
    alpha = OPACITY * np.asarray(heat, np.float64)[..., None]
    return np.asarray((alpha * colour + (1 - alpha) * crop).round(), np.uint8)
