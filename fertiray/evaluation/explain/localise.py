"""How much of a heatmap lies on the sperm head.

The head is outlined by the project's own segmentation (:mod:`fertiray.data.segmentation`), without
any dilation: midpiece and tail count as outside. The zona paper's "on the spermatozoa" (51.4% and
91.6%) takes them in, so its numbers are upper bounds for these.

Shapes: H x W pixels of an image as decoded or cut, S x S of the network's input.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fertiray.data.alignment import WINDOW_HEADS
from fertiray.data.images import Pixels
from fertiray.data.segmentation import head_mask, segment_field
from fertiray.models.preprocess import Preprocessing, resize_crop


def head_region(
    image: Pixels, preprocessing: Preprocessing, *, framed: bool
) -> NDArray[np.bool_] | None:
    """The pixels of the head in what the network sees of an image.

    Args:
        image: HWC uint8 RGB of one sperm, before :func:`~fertiray.models.preprocess.resize_crop`.
        preprocessing: gives window and size S.
        framed: the image is in the head's own frame, whose scale is known.

    Returns:
        S x S bool; None where no head is found.
    """
    length = max(image.shape[:2]) / WINDOW_HEADS if framed else None
    heads = segment_field(image, length, single=True).heads
    if not heads:
        return None
    mask = head_mask(heads[0], (image.shape[0], image.shape[1])).astype(np.uint8) * 255
    seen = resize_crop(np.repeat(mask[..., None], 3, axis=2), preprocessing)[..., 0] > 127
    return seen if seen.any() else None


def share_inside(heat: NDArray[np.floating], region: NDArray[np.bool_]) -> float | None:
    """Share of the heat that lies in a region; the region's share of the area is its chance level.

    Args:
        heat: S x S, not negative.
        region: S x S bool.

    Returns:
        In [0, 1]; None where there is no heat.
    """
    total = float(heat.sum(dtype=np.float64))
    return float(heat[region].sum(dtype=np.float64)) / total if total else None


def points_inside(heat: NDArray[np.floating], region: NDArray[np.bool_]) -> bool | None:
    """The pointing game (Zhang et al. 2018): whether the hottest pixel lies in a region.

    Without the 15-pixel margin of that paper. Of equally hot pixels the first one counts.

    Args:
        heat: S x S, not negative.
        region: S x S bool.

    Returns:
        None where there is no heat.
    """
    return bool(region.flat[heat.argmax()]) if heat.any() else None
