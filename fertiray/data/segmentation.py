"""Sperm heads in a stained smear field.

The field's illumination is estimated and divided out (``stain``), its colours clustered by
K-means, stained blobs found and touching heads cut apart (``blob_cuts``), each outlined at full
resolution (``candidates``), turned (``head_axis``), measured, and accepted or rejected with a
named reason (``head_rules``). Nothing is fixed to one stain or microscope: lengths are shares of
the head length, darkness is relative to the field's own background and nuclei.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from fertiray.data.candidates import WORKING_LENGTH, candidates, disc
from fertiray.data.head_rules import REJECT_REASONS, Head, measure, reason
from fertiray.data.stain import Floats, Image, Stain, background, cluster

__all__ = [
    "REJECT_REASONS",
    "FieldHeads",
    "Head",
    "estimate_head_length",
    "head_mask",
    "segment_field",
]

_LEAST_CONTRAST = 0.12
"""Strength of the nuclei below which a field is taken to hold nothing but noise."""

_SURVEY_SIDE = 640
"""Longer side of the reduced image on which the head length is estimated."""

_FLAT_HEADS, _FLAT_SIDE = 6, 320
"""An image less than six heads (unknown: 320 px) across is too small to fit its illumination."""


@dataclass(frozen=True)
class FieldHeads:
    """What was found in one field.

    Attributes:
        heads: accepted heads.
        rejected: candidates with the reason they are not scored.
        background: median RGB of the field's background, in [0, 255].
        head_length: in px; the one given, or estimated from the field (0 if it holds none).
    """

    heads: list[Head]
    rejected: list[Head]
    background: tuple[float, float, float]
    head_length: float


def segment_field(
    image: Image, head_length: float | None = None, *, single: bool = False
) -> FieldHeads:
    """Finds the sperm heads of a stained smear field.

    Never raises for a decoded image: an empty, dark or tiny one gives no heads.

    Args:
        image: HWC uint8 RGB in [0, 255].
        head_length: median head length in px of the microscope (see
            :func:`estimate_head_length`); estimated from this image alone where None or 0.
        single: the image shows one sperm (a crop of a data set): the head nearest the middle is
            taken, the others are rejected as neighbours.
    """
    side = max(image.shape[:2])
    small = _reduced(image, WORKING_LENGTH / head_length if head_length else _SURVEY_SIDE / side)
    flat = side < (_FLAT_HEADS * head_length if head_length else _FLAT_SIDE)
    light = background(small, flat=flat)
    if not head_length:
        colours = light.attenuation(small)
        head_length = _survey_length(colours, cluster(colours)) * side / max(small.shape[:2])
        if not head_length:
            return FieldHeads([], [], light.colour, 0.0)
        small = _reduced(image, WORKING_LENGTH / head_length)
    colours = light.attenuation(small)
    stain = cluster(colours)
    if stain.nucleus <= _LEAST_CONTRAST:
        return FieldHeads([], [], light.colour, head_length)
    stained = light.attenuation(image, stain.channel)
    heads = [
        measure(contour, stained, stain.nucleus, head_length)
        for contour in candidates(stained, colours, stain, head_length)
    ]
    heads = [replace(head, reason=reason(head, head_length, single=single)) for head in heads]
    if single:
        heads = _nearest_the_middle(heads, image.shape[:2])
    return FieldHeads(
        [head for head in heads if not head.reason],
        [head for head in heads if head.reason],
        light.colour,
        head_length,
    )


def estimate_head_length(images: Iterable[Image]) -> float:
    """Median head length in px over a sample of fields: the microscope's scale.

    Args:
        images: HWC uint8 RGB fields of one microscope and magnification; a dozen are enough.

    Returns:
        The length, or 0 where no field holds a head.
    """
    lengths = [head.major for image in images for head in segment_field(image).heads]
    return float(np.median(lengths)) if lengths else 0.0


def head_mask(head: Head, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The pixels of a head: (H, W) bool, for a field of that shape."""
    canvas = np.zeros(shape, np.uint8)
    cv2.fillPoly(canvas, [np.round(head.contour).astype(np.int32).reshape(-1, 1, 2)], 1)
    return canvas.astype(bool)


def _reduced(image: Image, zoom: float) -> Image:
    """The image averaged down by a zoom below 1; never enlarged."""
    if zoom >= 1:
        return image
    height, width = image.shape[:2]
    side = (max(1, round(width * zoom)), max(1, round(height * zoom)))
    method = cv2.INTER_LINEAR if zoom > 0.45 else cv2.INTER_AREA  # half as slow, as good there
    return np.asarray(cv2.resize(image, side, interpolation=method), np.uint8)


def _survey_length(colours: Floats, stain: Stain) -> float:
    """Length of the typical compact, strongly stained blob, in px; 0 without one.

    Each blob is opened with half its own inner radius, which takes tails off at any scale; blobs
    then count by area times squared strength, so that specks and pale cells weigh little.
    """
    if stain.nucleus <= _LEAST_CONTRAST:
        return 0.0
    stained = colours[..., stain.channel]
    height, width = stained.shape
    body = (stained > 0.35 * stain.nucleus).astype(np.uint8)
    inner = cv2.distanceTransform(body, cv2.DIST_L2, 5)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(body, connectivity=4)
    largest_first = 1 + np.argsort(-stats[1:, cv2.CC_STAT_AREA])[:64]
    lengths, weights = [], []
    for index in largest_first:
        x, y, w, h, area = stats[index].tolist()
        if area < 30:
            break
        window = (slice(y, y + h), slice(x, x + w))
        own = (labels[window] == index).astype(np.uint8)
        radius = float(inner[window][own > 0].max())
        own = cv2.morphologyEx(own, cv2.MORPH_OPEN, disc(0.5 * radius))
        outlines, _ = cv2.findContours(own, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        if not outlines:
            continue
        outline = max(outlines, key=cv2.contourArea)
        left, top, across, down = cv2.boundingRect(outline)
        left, top = left + x, top + y
        if left == 0 or top == 0 or left + across == width or top + down == height:
            continue
        filled = float(cv2.contourArea(outline))
        _, sides, _ = cv2.minAreaRect(outline)
        if filled < 0.88 * cv2.contourArea(cv2.convexHull(outline)) or max(sides) > 3 * min(sides):
            continue
        lengths.append(max(sides) + 1)
        weights.append(filled * float(stained[window][own > 0].mean()) ** 2)
    if not lengths:
        return 0.0
    order = np.argsort(lengths)
    running = np.cumsum(np.array(weights)[order])
    return float(np.array(lengths)[order][np.searchsorted(running, running[-1] / 2)])


def _nearest_the_middle(heads: list[Head], shape: tuple[int, ...]) -> list[Head]:
    """Keeps the accepted head nearest the middle; the others become neighbours."""
    accepted = [head for head in heads if not head.reason]
    if not accepted:
        return heads
    x, y = shape[1] / 2, shape[0] / 2
    chosen = min(accepted, key=lambda head: np.hypot(head.cx - x, head.cy - y))
    return [
        replace(head, reason="neighbour") if not head.reason and head is not chosen else head
        for head in heads
    ]
