"""Labelled crops for training: from class folders, a ``labels.csv`` or a labelled crop store."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fertiray import storage
from fertiray.data.crops import is_store, iter_rows
from fertiray.data.images import ImageError, decode, image_digest
from fertiray.errors import InputError
from fertiray.models.preprocess import Preprocessing, resize_crop

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


@dataclass(frozen=True)
class LabelledCrops:
    """Crops with labels, decoded and resized, in memory.

    Attributes:
        images: N x size x size x 3 uint8 RGB in [0, 255].
        labels: N int64 class indices.
        classes: class names by index, in the paper's order.
        patients: patient of each crop, ``None`` where unknown.
        digests: digest of each crop's pixels before resizing, for finding duplicates.
        rejected: place and reason of every image that could not be decoded.
        conflicts: places of crops left out because the same pixels carry two labels.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    patients: tuple[str | None, ...]
    digests: tuple[str, ...]
    rejected: tuple[tuple[str, str], ...]
    conflicts: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Identifies the pixels and labels, whatever their order and place."""
        lines = sorted(
            f"{digest} {self.classes[label]}"
            for digest, label in zip(self.digests, self.labels, strict=True)
        )
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Item:
    place: str
    data: bytes
    label: str
    patient: str | None


def load_labelled(
    location: str, preprocessing: Preprocessing, known: tuple[str, ...]
) -> LabelledCrops:
    """Reads every labelled crop at the size that the network takes.

    Args:
        location: a crop store with labels, class folders (``Class/image``), or images anywhere
            under a folder with a ``labels.csv``; local or ``s3://``.
        preprocessing: gives the window and the size.
        known: the class names that the paper knows, in the order of its logits.

    Raises:
        InputError: nothing there, no labels, a single class or one that the paper does not know.
    """
    images: list[NDArray[np.uint8]] = []
    labels: list[str] = []
    patients: list[str | None] = []
    digests: list[str] = []
    places: list[str] = []
    rejected: list[tuple[str, str]] = []
    for item in _items(location):
        try:
            image = decode(item.data, name=item.place)
        except ImageError as error:
            rejected.append((item.place, str(error)))
            continue
        images.append(resize_crop(image, preprocessing))
        labels.append(item.label)
        patients.append(item.patient)
        digests.append(image_digest(image))
        places.append(item.place)
    keep, conflicts = _without_conflicts(digests, labels, places)
    found = {labels[i] for i in keep}
    if strange := sorted(found - set(known)):
        raise InputError(
            f"{location}: unknown class {strange[0]!r}; this paper's classes are {', '.join(known)}"
        )
    classes = tuple(name for name in known if name in found)
    if len(classes) < 2:
        raise InputError(
            f"{location}: training needs two or more classes, found {list(classes) or 'none'}:"
            " give class folders, a labels.csv or a labelled crop store"
        )
    index = {name: number for number, name in enumerate(classes)}
    return LabelledCrops(
        images=np.stack([images[i] for i in keep]),
        labels=np.array([index[labels[i]] for i in keep], dtype=np.int64),
        classes=classes,
        patients=tuple(patients[i] for i in keep),
        digests=tuple(digests[i] for i in keep),
        rejected=tuple(rejected),
        conflicts=tuple(conflicts),
    )


def _without_conflicts(
    digests: list[str], labels: list[str], places: list[str]
) -> tuple[list[int], list[str]]:
    """Indices to keep, and the places whose pixels carry more than one label."""
    seen: dict[str, set[str]] = {}
    for digest, label in zip(digests, labels, strict=True):
        seen.setdefault(digest, set()).add(label)
    keep = [i for i, digest in enumerate(digests) if len(seen[digest]) == 1]
    return keep, [places[i] for i, digest in enumerate(digests) if len(seen[digest]) > 1]


def _items(location: str) -> Iterator[_Item]:
    if not storage.exists(location):
        raise InputError(f"{location}: no such folder; give a labelled folder or a crop store")
    if is_store(location):
        yield from _from_store(location)
    elif storage.exists(table := storage.join(location, "labels.csv")):
        yield from _from_table(location, table)
    else:
        yield from _from_class_folders(location)


def _from_store(location: str) -> Iterator[_Item]:
    columns = ["crop_id", "patient_id", "image", "label"]
    for row in iter_rows(location, columns):
        if row["label"] is not None:
            yield _Item(row["crop_id"], row["image"], row["label"], row["patient_id"])


def _from_table(location: str, table: str) -> Iterator[_Item]:
    text = storage.read_bytes(table).decode("utf-8-sig", errors="replace")
    reader = csv.DictReader(io.StringIO(text))
    names = {(name or "").strip().lower(): name for name in reader.fieldnames or ()}
    image, label = names.get("image"), names.get("label") or names.get("class")
    if image is None or label is None:
        raise InputError(
            f"{table}: needs the columns image and label (or Image and Class),"
            f" found {list(reader.fieldnames or ())}"
        )
    patient = names.get("patient_id")
    for row in reader:
        place = storage.join(location, row[image].strip())
        yield _Item(
            place,
            storage.read_bytes(place),
            row[label].strip(),
            row[patient] if patient is not None else None,
        )


def _from_class_folders(location: str) -> Iterator[_Item]:
    root = storage.filesystem(location)[1].rstrip("/") + "/"
    for place in storage.list_files(location):
        parts = storage.filesystem(place)[1].removeprefix(root).split("/")
        if len(parts) == 2 and parts[1].lower().endswith(IMAGE_SUFFIXES):
            # HuSHeM numbers its folders: 01_Normal.
            label = re.sub(r"^\d+_", "", parts[0])
            yield _Item(place, storage.read_bytes(place), label, None)
