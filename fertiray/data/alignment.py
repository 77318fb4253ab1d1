"""Square crops in the head's own frame: head centred, long axis vertical, acrosome up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from fertiray.data.segmentation import Head

CROP_SIZE = 128
"""Side of a crop in px."""

WINDOW_HEADS = 2.0
"""Side of the window that a crop shows, in median head lengths of the field or cohort."""


def align_crop(
    image: npt.NDArray[np.uint8], head: Head, head_length: float, size: int = CROP_SIZE
) -> npt.NDArray[np.uint8]:
    """The head in its own frame.

    The window is the same for all heads of a field, so that a head's size stays visible in its
    crop. Where the window leaves the field the border pixels are replicated.

    Args:
        image: HWC uint8 RGB field in [0, 255] that the head was found in.
        head: the head.
        head_length: median head length in px of the field (``FieldHeads.head_length``).
        size: side of the crop in px.

    Returns:
        (size, size, 3) uint8 RGB in [0, 255], C-contiguous.
    """
    step = WINDOW_HEADS * head_length / size
    angle = np.radians(head.angle)
    up = step * np.array([np.cos(angle), np.sin(angle)])
    right = np.array([-up[1], up[0]])
    origin = np.array([head.cx, head.cy]) + (up - right) * (size - 1) / 2
    matrix = np.stack([right, -up, origin], axis=1)
    if step > 1.0:
        # Sampling coarser than the pixels aliases: blur first, in a window to keep it cheap.
        reach = int(np.ceil(step * size)) + 8
        x0, y0 = int(head.cx) - reach, int(head.cy) - reach
        x1, y1 = max(0, x0), max(0, y0)
        image = image[y1 : max(y0 + 2 * reach, y1 + 1), x1 : max(x0 + 2 * reach, x1 + 1)]
        image = cv2.GaussianBlur(image, (0, 0), 0.4 * step)  # type: ignore[assignment]
        matrix[:, 2] -= (x1, y1)
    crop = cv2.warpAffine(
        image,
        matrix,
        (size, size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.ascontiguousarray(crop, dtype=np.uint8)
