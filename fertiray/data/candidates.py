"""Where heads may be: stained blobs, each outlined at full resolution.

Every length is a share of the head length and every strength a share of the nuclei's, so the
same numbers hold for any magnification and stain. Shapes: H, W rows and columns of the field;
h, w of a window of it; N points of a contour.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects

from fertiray.data.blob_cuts import Mask, convex_parts
from fertiray.data.stain import Floats, Stain, separate

Contour = npt.NDArray[np.float32]

WORKING_LENGTH = 45.0
"""Head length in px at which blobs are sought; finer fields are reduced to it."""

DARK = 0.67
"""Strength above which a pixel is nucleus."""

_BODY = 0.30
"""Strength above which a pixel may be head where only darkness can tell."""

_FAINTEST = 0.22
"""The same where the colour, too, is that of heads."""

_NUCLEUS_AREA = 0.08
_HOLE_AREA = 0.06
_SMALLEST_AREA = 0.05
_LEAST_COLOURS = 0.05
"""Areas, in squared head lengths: least nucleus of a head, largest vacuole, least blob, and what a
field must show of heads and of the rest for their colours to be told apart."""

_NECK = 0.15
"""Radius of the opening that takes tails and midpieces off."""

_TIP = 0.04
"""The same for nuclear strength: no tail is as dark, but the tip of a tapered head is."""

_REACH = 0.14
"""How far a head's edge may lie outside its blob."""

_ENVELOPE = 0.08
"""How far inside the edge the strength that the edge is measured against is looked for."""

_EDGE, _EDGE_PALE = 0.44, 0.12
"""Share of the inner strength at which the edge lies, for a nucleus and for no stain at all.

A nucleus is solid and blurred by the optics: its edge is near the half maximum. The acrosome is
a cap that thins out towards its rim, which experts count in: its edge lies lower.
"""

_FLOOR = 0.08
"""Strength that is never head."""


def disc(radius: float) -> Mask:
    """Structuring element of the given radius in px, at least 3x3."""
    side = 2 * max(1, round(radius)) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


def candidates(stained: Floats, colours: Floats, stain: Stain, length: float) -> Iterator[Contour]:
    """Every blob of a field as a contour at full resolution.

    Args:
        stained: (H, W) float32 strength of the field.
        colours: (H', W', 3) float32 attenuations at the working scale.
        stain: the field's clusters.
        length: head length in px of the field.

    Yields:
        (N, 2) float32 x, y in px of the field.
    """
    height, width = stained.shape
    zoom = colours.shape[1] / width
    labels = _blobs(colours, stain, length * zoom)
    margin = round(0.2 * length * zoom) + 1
    for index, box in enumerate(find_objects(labels), start=1):
        top, left = (max(0, side.start - margin) for side in box)
        bottom = min(labels.shape[0], box[0].stop + margin)
        right = min(labels.shape[1], box[1].stop + margin)
        own = _own_ground(labels[top:bottom, left:right], index, _REACH * length * zoom)
        y0, y1 = round(top / zoom), min(height, round(bottom / zoom))
        x0, x1 = round(left / zoom), min(width, round(right / zoom))
        soft = cv2.resize(own * np.uint8(255), (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
        contour = _outline(
            stained[y0:y1, x0:x1], (soft > 127).astype(np.uint8), stain.nucleus, length
        )
        if contour is not None:
            yield contour + np.array([x0, y0], np.float32)


def _own_ground(labels: npt.NDArray[np.int32], index: int, reach: float) -> Mask:
    """Where one head may be: its blob and a little around it, up to half way to a neighbour."""
    own = (labels == index).astype(np.uint8)
    others = ((labels != index) & (labels > 0)).astype(np.uint8)
    ground = np.asarray(cv2.dilate(own, disc(reach)), np.uint8)
    if others.any():
        near = cv2.distanceTransform(1 - own, cv2.DIST_L2, 5)
        far = cv2.distanceTransform(1 - others, cv2.DIST_L2, 5)
        ground &= (near <= far).astype(np.uint8)
    return ground


def _blobs(colours: Floats, stain: Stain, length: float) -> npt.NDArray[np.int32]:
    """Labels (0 = none) of stained blobs, tails opened away, touching bodies cut apart."""
    stained = colours[..., stain.channel]
    weights, offset = _head_colour(colours, stain, length)
    likely = colours @ weights + np.float32(offset) > 0
    likely |= stained > DARK * stain.nucleus
    body = ((stained > _FAINTEST * stain.nucleus) & likely).astype(np.uint8)
    body = _filled(body, _HOLE_AREA * length * length)
    body = _without_tails(body, stained, stain.nucleus, length)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(body, connectivity=4)
    found = np.zeros(labels.shape, np.int32)
    total = 0
    for index in range(1, count):
        x, y, w, h, area = stats[index].tolist()
        if area < _SMALLEST_AREA * length * length:
            continue
        window = (slice(y, y + h), slice(x, x + w))
        for part in convex_parts((labels[window] == index).astype(np.uint8), length):
            total += 1
            found[window][part > 0] = total
    return found


def _head_colour(colours: Floats, stain: Stain, length: float) -> tuple[Floats, float]:
    """The combination of channels that tells heads from tails and debris.

    They take up different dyes (in Diff-Quik acrosome and nucleus turn violet, tail and
    cytoplasm blue), so a colour tells them apart where darkness does not. Which one is learnt
    in the field itself: the paler parts of the blobs that hold a nucleus, against everything
    equally pale that lies away from them.

    Returns:
        Weights (3,) float32 and offset: ``attenuation @ weights + offset`` is above 0 where head.
        Where the field has too little of either, the stain's channel alone decides.
    """
    stained = colours[..., stain.channel]
    body = (stained > _BODY * stain.nucleus).astype(np.uint8)
    thick = cv2.morphologyEx(body, cv2.MORPH_OPEN, disc(_NECK * length))
    count, labels = cv2.connectedComponents(thick, connectivity=4)
    dark = np.bincount(labels[stained > 0.75 * stain.nucleus], minlength=count)
    dark[0] = 0
    head = (dark > _NUCLEUS_AREA * length * length)[labels].astype(np.uint8)
    medium = (stained > 0.2 * stain.nucleus) & (stained < 0.7 * stain.nucleus)
    inner = (cv2.erode(head, disc(_NECK * length / 2)) > 0) & medium
    outer = (cv2.dilate(head, disc(_NECK * length)) == 0) & medium
    least = max(8.0, _LEAST_COLOURS * length * length)
    if np.count_nonzero(inner) < least or np.count_nonzero(outer) < least:
        alone = np.zeros(3, np.float32)
        alone[stain.channel] = 1 / (_BODY * stain.nucleus)
        return alone, -1.0
    return separate(colours[inner], colours[outer])


def _filled(mask: Mask, largest: float) -> Mask:
    """Holes up to an area filled: vacuoles, which are as pale as the background."""
    outlines, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if not outlines:
        return mask
    parents = np.asarray(tree).reshape(-1, 4)[:, 3]
    holes = [
        hole
        for hole, parent in zip(outlines, parents, strict=True)
        if parent >= 0 and cv2.contourArea(hole) < largest
    ]
    cv2.drawContours(mask, holes, -1, 1, cv2.FILLED)
    return mask


def _without_tails(mask: Mask, stained: Floats, nucleus: float, length: float) -> Mask:
    """Thin parts opened away, unless they are as dark as a nucleus (a tapered head's tip)."""
    border = cv2.BORDER_REPLICATE
    thick = cv2.morphologyEx(mask, cv2.MORPH_OPEN, disc(_NECK * length), borderType=border)
    dark = mask & (stained > DARK * nucleus).astype(np.uint8)
    tips = cv2.morphologyEx(dark, cv2.MORPH_OPEN, disc(_TIP * length), borderType=border)
    return np.asarray(cv2.bitwise_or(thick, tips), np.uint8)


def _outline(stained: Floats, allowed: Mask, nucleus: float, length: float) -> Contour | None:
    """The contour of one head at full resolution, in px of its window; None if nothing is left.

    The edge is where the strength has fallen to a share of what it is just inside. Inside is
    taken locally (the largest strength within a few px), since the acrosome is far paler than
    the nucleus.

    Args:
        stained: (h, w) float32 strength of the window.
        allowed: (h, w) uint8, 1 where this head may be.
        nucleus: strength of the field's nuclei.
        length: head length in px.
    """
    smooth = cv2.GaussianBlur(stained, (0, 0), max(0.6, 0.01 * length))
    inside = cv2.dilate(smooth, disc(_ENVELOPE * length))
    inside = cv2.GaussianBlur(inside, (0, 0), _ENVELOPE * length / 2)
    share = _EDGE_PALE + (_EDGE - _EDGE_PALE) * np.minimum(inside / np.float32(nucleus), 1)
    mask = ((smooth > share * inside) & (smooth > _FLOOR * nucleus)).astype(np.uint8)
    mask = _without_tails(mask & allowed, np.asarray(smooth, np.float32), nucleus, length)
    filled = _largest(mask)
    if filled is None:
        return None
    sigma = max(0.8, 0.025 * length)
    soft = cv2.GaussianBlur(filled[0], (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    rounded = _largest((soft > 127).astype(np.uint8))
    if rounded is None or len(rounded[1]) < 8:
        return None
    return rounded[1][:, 0].astype(np.float32)


def _largest(mask: Mask) -> tuple[Mask, npt.NDArray[np.int32]] | None:
    """The largest piece of a mask, holes filled with 255, and its outline (N, 1, 2)."""
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not outlines:
        return None
    outline = np.asarray(max(outlines, key=cv2.contourArea), np.int32)
    filled = np.zeros(mask.shape, np.uint8)
    cv2.fillPoly(filled, [outline], 255)
    return filled, outline
