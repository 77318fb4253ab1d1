"""Images of one sperm each, cut out in the head's own frame.

The frame is that of the crop store (:mod:`fertiray.data.alignment`): head centred, long axis
vertical, acrosome up, a window of two head lengths. The head length is the cohort's median, as
``fertiray segment --single`` estimates it, so that heads keep their relative size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import cv2
import numpy as np

from fertiray.data.alignment import align_crop
from fertiray.data.extract import CALIBRATION_FIELDS
from fertiray.data.images import Pixels
from fertiray.data.segmentation import Head, estimate_head_length, segment_field

UPRIGHT = 270.0
"""Direction of a head that needs no turning: y runs down."""

LEAST_ASPECT = 1.1
"""Elongation below which a candidate that is no good head has no axis to speak of."""


def sample(names: Sequence[str]) -> list[str]:
    """The images that the head length is estimated from: a few, spread over the sorted names.

    Args:
        names: of all images of the cohort, in any order.
    """
    places = np.linspace(0, len(names) - 1, min(len(names), CALIBRATION_FIELDS))
    ordered = sorted(names)
    return [ordered[place] for place in sorted({int(place) for place in places})]


def cohort_head_length(images: Sequence[Pixels]) -> float:
    """Median head length in px, 0 where no image holds a head.

    Args:
        images: HWC uint8 RGB in [0, 255]: the :func:`sample`.
    """
    with one_thread():
        return estimate_head_length(images)


def cut_head(image: Pixels, head_length: float) -> tuple[Pixels, bool]:
    """The head of an image in its own frame.

    Where no candidate passes the rules of the segmentation, the one nearest the middle is taken,
    among those that are elongated, inside the image and within a head length of the middle; else
    the middle of the image, not turned.

    Args:
        image: HWC uint8 RGB in [0, 255] of one sperm.
        head_length: median head length in px of the cohort.

    Returns:
        The crop, (128, 128, 3) uint8 RGB in [0, 255], and whether a head was found by the rules.
    """
    found = segment_field(image, head_length, single=True)
    if found.heads:
        return align_crop(image, found.heads[0], head_length), True
    middle = ((image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2)

    def distance(head: Head) -> float:
        return float(np.hypot(head.cx - middle[0], head.cy - middle[1]))

    near = [
        head
        for head in found.rejected
        if head.reason != "border" and head.aspect >= LEAST_ASPECT and distance(head) <= head_length
    ]
    head = min(near, key=distance, default=_at(*middle))
    return align_crop(image, head, head_length), False


@contextmanager
def one_thread() -> Iterator[None]:
    """Keeps OpenCV to one thread, as in the making of a crop store: the same sums, the same order.

    Images are worked on in parallel instead.
    """
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _at(x: float, y: float) -> Head:
    """A place to cut around; what is not known of it plays no part in the cut."""
    nothing = np.zeros((0, 2), np.float32)
    return Head(
        x, y, 0.0, 0.0, UPRIGHT, 1.0, nothing,
        area=0.0, solidity=0.0, nucleus=0.0, sharpness=0.0, visible=0.0,
        texture=0.0, gradient=0.0, tail=0.0, reason="shape",
    )  # fmt: skip
