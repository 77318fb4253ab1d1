"""Reading a labelled set once: every image decoded, measured and cut, in parallel.

What was read keeps the order of its pixel digests, so that nothing that follows (groups, splits,
batches) depends on how the files are called or listed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from fertiray.data.aspect import otsu_aspect
from fertiray.data.datasets import Item
from fertiray.data.focus import focus
from fertiray.data.frame import one_thread
from fertiray.data.images import ImageError, Pixels, decode, image_digest
from fertiray.data.near_duplicates import thumbnail
from fertiray.errors import InputError, StorageError
from fertiray.processes import cores

Cut = Callable[[Item, Pixels], tuple[Pixels, bool]]
"""From an image to what is kept of it, and whether it is in the frame that was asked for."""

_AHEAD = 256
"""Images that are in memory with all their pixels at one time."""


@dataclass(frozen=True)
class Excluded:
    """An image that is left out.

    Attributes:
        name: path relative to the data location, or ``crop_id``.
        reason: one word: ``missing``, ``unreadable``, ``ungraded``, ``contradiction``, ``blurred``.
        detail: a sentence.
    """

    name: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Picture:
    """What is kept of an image that was read.

    Attributes:
        name: as in :class:`~fertiray.data.datasets.Item`, like labels, patient and facets.
        labels: see there.
        patient: see there.
        facets: see there.
        digest: of the pixels as decoded.
        width: in px, as decoded.
        height: in px, as decoded.
        crop: HWC uint8 RGB, cut and resized.
        framed: whether the crop is in the frame that was asked for.
        thumbnail: (96, 96) uint8, for finding near duplicates.
        focus: sharpness (:func:`fertiray.data.focus.focus`).
        aspect: head aspect ratio of the raw image; NaN where not measured.
    """

    name: str
    labels: Mapping[str, str | None]
    patient: str | None
    facets: Mapping[str, str]
    digest: str
    width: int
    height: int
    crop: Pixels
    framed: bool
    thumbnail: NDArray[np.uint8]
    focus: float
    aspect: float


def read_pictures(
    items: Iterable[Item], cut: Cut, *, aspects: bool = False
) -> tuple[list[Picture], list[Excluded]]:
    """Reads images.

    Args:
        items: what to read; an image that is listed twice with the same labels is read once.
        cut: makes the crop that is kept.
        aspects: measure the head aspect ratio.

    Returns:
        Pictures sorted by digest and name, and what could not be read or carries no label.
    """
    pictures: list[Picture] = []
    excluded: list[Excluded] = []

    def read(item: Item) -> Picture | Excluded:
        return _read(item, cut, aspects)

    with one_thread(), ThreadPoolExecutor(cores()) as pool:
        todo = _once(items)
        while batch := [*islice(todo, _AHEAD)]:
            for outcome in pool.map(read, batch):
                if isinstance(outcome, Picture):
                    pictures.append(outcome)
                else:
                    excluded.append(outcome)
    return sorted(pictures, key=lambda picture: (picture.digest, picture.name)), excluded


def _once(items: Iterable[Item]) -> Iterator[Item]:
    """Each image once for each different set of labels that it is listed with."""
    seen: dict[str, list[Mapping[str, str | None]]] = {}
    for item in items:
        labels = seen.setdefault(item.name, [])
        if item.labels not in labels:
            labels.append(item.labels)
            yield item


def _read(item: Item, cut: Cut, aspects: bool) -> Picture | Excluded:
    if not any(item.labels.values()):
        return Excluded(item.name, "ungraded", f"{item.origin}: no grade that this paper uses")
    try:
        image = decode(item.read(), name=item.name)
    except StorageError:  # the next file would fail too
        raise
    except InputError as error:
        return Excluded(item.name, "missing", str(error))
    except (ImageError, OSError) as error:
        return Excluded(item.name, "unreadable", str(error))
    crop, framed = cut(item, image)
    aspect = otsu_aspect(image) if aspects else None
    return Picture(
        item.name,
        item.labels,
        item.patient,
        item.facets,
        image_digest(image),
        image.shape[1],
        image.shape[0],
        crop,
        framed,
        thumbnail(image),
        focus(image),
        math.nan if aspect is None else aspect,
    )
