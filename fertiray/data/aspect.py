"""Head aspect ratio of a raw image: what the WHO rule of 1.5 is about.

Measured on the 216 images of HuSHeM the class medians are Normal 1.51, Amorphous 1.73, Tapered 2.22
and Pyriform 2.22. MADRNet's published code takes contours of the unthresholded grey image instead,
whose box is the whole picture: its ratio is 1.00 for every image.
"""

from __future__ import annotations

import cv2

from fertiray.data.images import Pixels


def otsu_aspect(image: Pixels) -> float | None:
    """Head aspect ratio by the plain method: Otsu on green, largest blob, minimum-area rectangle.

    Args:
        image: HWC uint8 RGB in [0, 255], as it was taken: before any augmentation.

    Returns:
        Long side over short side, at least 1; None where the image shows no blob.
    """
    green = cv2.extractChannel(image, 1)
    _, mask = cv2.threshold(green, 0, 255, cv2.THRESH_BINARY_INV | cv2.THRESH_OTSU)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not outlines:
        return None
    _, sides, _ = cv2.minAreaRect(max(outlines, key=cv2.contourArea))
    return float(max(sides) / min(sides)) if min(sides) > 0 else None
