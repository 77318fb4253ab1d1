"""Pictures that are nearly the same: re-encoded, shifted, brightened, or a second shot.

Heads of one class look alike, so the grey values alone cannot tell a copy from a lookalike. What a
copy shares and a lookalike does not is the rest of the scene: tails, debris, texture. Therefore all
is measured on local contrast (a band-pass divided by its own local strength), where a faint scratch
counts as much as the head.

1. Fingerprints: 24 x 24 of coarse local contrast; pairs whose correlation is high are candidates.
2. Verification at 96 x 96: the pair is registered by phase correlation, and the correlation of its
   fine local contrast has to reach a threshold: 0.6, or more where the set's own pictures are all
   alike (seven robust standard deviations above its typical pair, in Fisher's z).

Looked at as pictures, the pairs found in HuSHeM, SMIDS and Hung Vuong (3, 96 and 40) are the same
cell, and the most similar lookalikes score 0.54, 0.53 and 0.57. Copies of their images (JPEG at
quality 50 or 80, cut by a pixel, shifted by one, 20% brighter, 25% darker, reduced to 70%) score
0.80 to 1.00. A second shot in another focus may score less than the threshold, and mirrored or
rotated copies are not sought: none of these sets holds one. Crops in one frame (a crop store) are
so alike that the threshold rises to about 0.9, where little but true copies is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from fertiray.data.images import Pixels

SIDE = 96
"""Side of a thumbnail in px."""

_PRINT = 24
_CANDIDATE = 0.55
_LEAST, _MOST, _FEW = 0.6, 0.95, 0.9
"""Least and largest threshold, and the one where a set is too small to know its typical pair."""

_SAMPLE, _LEAST_SAMPLE = 512, 64
_DEVIATIONS = 7.0
_BLOCK = 1024
_NEIGHBOURS = 8
_FARTHEST = SIDE / 6

Floats = NDArray[np.float32]
_WINDOW = cv2.createHanningWindow((SIDE, SIDE), cv2.CV_32F)


def thumbnail(image: Pixels) -> NDArray[np.uint8]:
    """What is kept of an image for the comparison: (96, 96) uint8 grey.

    Args:
        image: HWC uint8 RGB in [0, 255].
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def near_pairs(thumbnails: NDArray[np.uint8], threads: int = 1) -> list[tuple[int, int, float]]:
    """Pairs of pictures that are nearly the same.

    Time grows with the square of N through one matrix product, memory does not: 2,400 images take
    two seconds, 30,000 half a minute on two cores.

    Args:
        thumbnails: N x 96 x 96 uint8 (:func:`thumbnail`), no two pictures pixel-identical.
        threads: to verify candidates with.

    Returns:
        First index, second index, similarity in [-1, 1]; sorted.
    """
    if len(thumbnails) < 2:
        return []
    with ThreadPoolExecutor(threads) as pool:
        verify = partial(_similarity, thumbnails)
        threshold = _threshold(np.array([*pool.map(verify, _typical_pairs(len(thumbnails)))]))
        prints = np.stack([*pool.map(_fingerprint, thumbnails)])
        found = [*_candidates(prints, max(_CANDIDATE, threshold - 0.05))]
        pairs: list[tuple[int, int, float]] = []
        for start in range(0, len(found), _BLOCK):
            block = found[start : start + _BLOCK]
            scores = pool.map(verify, block)
            pairs += [(*pair, score) for pair, score in zip(block, scores, strict=True)]
    return sorted(pair for pair in pairs if pair[2] >= threshold)


def _typical_pairs(count: int) -> list[tuple[int, int]]:
    """At most ``_SAMPLE`` pairs, neighbours first: in an order by digest these are random ones."""
    pairs: list[tuple[int, int]] = []
    for step in range(1, count):
        pairs += [(first, first + step) for first in range(min(count - step, _SAMPLE - len(pairs)))]
        if len(pairs) == _SAMPLE:
            break
    return pairs


def _threshold(typical: NDArray[np.float64]) -> float:
    """The similarity that a near duplicate must have, from that of typical pairs."""
    if len(typical) < _LEAST_SAMPLE:
        return _FEW
    z = np.arctanh(np.clip(typical, 0, 0.999))
    spread = 1.4826 * np.median(np.abs(z - np.median(z)))
    return float(np.clip(np.tanh(np.median(z) + _DEVIATIONS * spread), _LEAST, _MOST))


def _normalised(picture: NDArray[np.uint8]) -> Floats:
    """Free of brightness and contrast: mean 0, standard deviation 20."""
    grey = picture.astype(np.float32)
    grey -= grey.mean()
    return np.asarray(grey * np.float32(20 / max(float(grey.std()), 1e-3)), np.float32)


def _band(grey: Floats, fine: float, coarse: float) -> Floats:
    finer, coarser = cv2.GaussianBlur(grey, (0, 0), fine), cv2.GaussianBlur(grey, (0, 0), coarse)
    return np.asarray(finer - coarser, np.float32)


def _local_contrast(grey: Floats, fine: float, coarse: float) -> Floats:
    band = _band(grey, fine, coarse)
    # A twentieth of the picture's contrast is taken for noise.
    return np.asarray(band / np.sqrt(cv2.GaussianBlur(band * band, (0, 0), coarse) + 1), np.float32)


def _fingerprint(picture: NDArray[np.uint8]) -> Floats:
    """(576,) float32 of length 1, so that a product of two is their correlation."""
    contrast = _local_contrast(_normalised(picture), 2.0, 6.0)
    small = cv2.resize(contrast, (_PRINT, _PRINT), interpolation=cv2.INTER_AREA).ravel()
    small = small - small.mean()
    return np.asarray(small / max(float(np.linalg.norm(small)), 1e-6), np.float32)


def _candidates(prints: Floats, least: float) -> Iterator[tuple[int, int]]:
    """Pairs whose fingerprints correlate, at most ``_NEIGHBOURS`` of the best for each picture."""
    for start in range(0, len(prints), _BLOCK):
        block = prints[start : start + _BLOCK]
        alike = block @ prints[start:].T
        alike[np.tri(*alike.shape, dtype=np.bool_)] = -1  # itself, and pairs already seen
        for row in np.flatnonzero((alike > least).any(axis=1)):
            columns = np.flatnonzero(alike[row] > least)
            best = np.argsort(-alike[row, columns], kind="stable")[:_NEIGHBOURS]
            for column in columns[best]:
                yield start + int(row), start + int(column)


def _similarity(thumbnails: NDArray[np.uint8], pair: tuple[int, int]) -> float:
    """Correlation of the fine local contrast of two pictures, registered by translation."""
    first, second = (_normalised(thumbnails[index]) for index in pair)
    (right, down), _ = cv2.phaseCorrelate(_band(first, 1.0, 6.0), _band(second, 1.0, 6.0), _WINDOW)
    reach = max(abs(right), abs(down))
    if reach > _FARTHEST:
        return 0.0
    moved = cv2.warpAffine(
        second,
        np.array([[1, 0, right], [0, 1, down]]),
        (SIDE, SIDE),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    inside = slice(int(np.ceil(reach)) + 4, SIDE - int(np.ceil(reach)) - 4)
    a = _local_contrast(first, 1.0, 4.0)[inside, inside]
    b = _local_contrast(np.asarray(moved, np.float32), 1.0, 4.0)[inside, inside]
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / np.sqrt(max(float((a * a).sum() * (b * b).sum()), 1e-9)))
