"""The images to explain, each prepared as the checkpoint's training images were."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fertiray import storage
from fertiray.checkpoint import Meta
from fertiray.data.crops import iter_rows, row_groups
from fertiray.data.datasets import Item, Listing, crop_store
from fertiray.data.frame import cohort_head_length, cut_head, sample
from fertiray.data.images import ImageError, Pixels, decode
from fertiray.errors import InputError, StorageError
from fertiray.evaluation.explain.localise import head_region
from fertiray.models.preprocess import resize_crop

SPERM_TASKS = ("zona", "morphology")
"""Tasks of a checkpoint whose images show a stained sperm head."""


@dataclass(frozen=True)
class Picture:
    """An image as the network sees it.

    Attributes:
        name: path relative to the location, or ``crop_id``.
        crop: S x S x 3 uint8 RGB.
        head: S x S bool; None where no head was found or none was looked for.
    """

    name: str
    crop: Pixels
    head: NDArray[np.bool_] | None


@dataclass(frozen=True)
class Failed:
    """An image that cannot be explained.

    Attributes:
        name: as in :class:`Picture`.
        error: why.
    """

    name: str
    error: str


def evenly(count: int, limit: int) -> frozenset[int]:
    """At most ``limit`` of the places from 0 to before ``count``, spread over all of them."""
    places = np.linspace(0, count - 1, min(count, limit)).astype(int)
    return frozenset(places.tolist())


def pictures(
    location: str, meta: Meta, limit: int | None = None
) -> tuple[int, Iterator[Picture | Failed]]:
    """How many images there are to explain, and these one by one.

    Where heads are cut out, their scale is that of all images of the location, as in training.

    Args:
        location: an image, a folder of images at any depth, or a crop store; local or ``s3://``.
        meta: of the checkpoint: its preprocessing, frame and task.
        limit: take only so many, evenly spread over the sorted names.

    Raises:
        InputError: no image there, or the checkpoint wants heads in their own frame and there is no
            head in any.
    """
    count, found = _items(location)
    picked = evenly(count, limit or count)
    length = _head_length(location) if meta.config.get("frame") == "head" else None
    chosen = (item for place, item in enumerate(found) if place in picked)
    return len(picked), (_prepared(item, meta, length) for item in chosen)


def _items(location: str) -> tuple[int, Iterator[Item]]:
    if not storage.exists(location):
        raise InputError(f"{location}: not there; give an image, a folder of images or a store")
    fs, path = storage.filesystem(location)
    if fs.isfile(path):
        return 1, iter([Item(path.rpartition("/")[2], location, {})])
    listing = Listing.of(location)
    if crop_store.matches(listing):
        count, found = sum(group.rows for group in row_groups(location)), _rows(location)
    else:
        count = len(listing.images)
        found = (Item(name, listing.place(name), {}) for name in listing.images)
    if not count:
        raise InputError(f"{location}: no image there; give an image, a folder of them or a store")
    return count, found


def _rows(store: str) -> Iterator[Item]:
    for row in iter_rows(store, ["crop_id", "image", "angle"]):
        framed = row["angle"] is not None
        yield Item(row["crop_id"], store, {}, data=row["image"], framed=framed)


def _head_length(location: str) -> float:
    """Median head length in px of the images that are not in the head's own frame yet."""
    names = [item.name for item in _items(location)[1] if not item.framed]
    if not names:
        return 0.0
    chosen = {*sample(names)}
    found = (_decoded(item) for item in _items(location)[1] if item.name in chosen)
    length = cohort_head_length([image for image in found if isinstance(image, np.ndarray)])
    if not length:
        raise InputError(
            f"{location}: the checkpoint takes heads in their own frame, but none of"
            f" {len(chosen)} images shows a stained sperm head"
        )
    return length


def _decoded(item: Item) -> Pixels | str:
    """The image, or why there is none."""
    try:
        return decode(item.read(), name=item.name)
    except StorageError:  # the next file would fail too
        raise
    except (ImageError, InputError, OSError) as error:
        return str(error)


def _prepared(item: Item, meta: Meta, head_length: float | None) -> Picture | Failed:
    image = _decoded(item)
    if isinstance(image, str):
        return Failed(item.name, image)
    framed = item.framed
    if head_length is not None and not framed:
        image, framed = cut_head(image, head_length)
    head = None
    if meta.task in SPERM_TASKS:
        head = head_region(image, meta.preprocessing, framed=framed)
    return Picture(item.name, resize_crop(image, meta.preprocessing), head)
