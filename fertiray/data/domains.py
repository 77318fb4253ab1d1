"""Two unpaired sets of images, for the translation from one look into the other.

Layout on disk, local or on S3, images anywhere below either folder::

    location/lab/       laboratory look, what is translated
    location/clinical/  clinical look, what it is translated into

``A`` and ``B``, or ``trainA`` and ``trainB`` as the CycleGAN data sets name them, do as well. No
label is read, and no image has a partner in the other folder.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fertiray import storage
from fertiray.data.folders import Source, sources
from fertiray.data.frame import one_thread
from fertiray.data.images import CROP, ImageError, decode, image_digest
from fertiray.data.reading import Excluded
from fertiray.errors import InputError, StorageError
from fertiray.models.preprocess import Preprocessing, resize_crop
from fertiray.processes import cores

FOLDERS = (("lab", "clinical"), ("A", "B"), ("trainA", "trainB"))


@dataclass(frozen=True)
class Domains:
    """The images of both looks, decoded and resized, in memory.

    They are in the order of their digests, so that nothing depends on how files are called.

    Attributes:
        source: N x size x size x 3 uint8 RGB, the laboratory look.
        target: M x size x size x 3 uint8 RGB, the clinical look.
        names: of the source's and of the target's images, relative to the location.
        digests: of their pixels before resizing, in the same order.
        excluded: what was left out: ``unreadable``, or ``contradiction`` where the same pixels lie
            in both folders.
    """

    source: NDArray[np.uint8]
    target: NDArray[np.uint8]
    names: tuple[tuple[str, ...], tuple[str, ...]]
    digests: tuple[tuple[str, ...], tuple[str, ...]]
    excluded: tuple[Excluded, ...]

    @property
    def digest(self) -> str:
        """Identifies the pixels of both looks, whatever their order and names."""
        text = "\n\n".join("\n".join(sorted(digests)) for digests in self.digests)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_domains(location: str, preprocessing: Preprocessing) -> Domains:
    """Reads every image of both looks at the size that the generators take.

    Args:
        location: the folder that holds both, local or ``s3://``.
        preprocessing: gives the window and the size.

    Raises:
        InputError: a folder is missing or has no usable image.
    """
    folders = _folders(location)
    excluded: list[Excluded] = []
    read = [_read(location, folder, preprocessing, excluded) for folder in folders]
    shared = {image.digest for image in read[0]} & {image.digest for image in read[1]}
    for image in (*read[0], *read[1]):
        if image.digest in shared:
            excluded.append(
                Excluded(image.name, "contradiction", f"the same pixels in {' and '.join(folders)}")
            )
    kept = [[image for image in images if image.digest not in shared] for images in read]
    for folder, images in zip(folders, kept, strict=True):
        if not images:
            below = [one for one in excluded if one.name.startswith(f"{folder}/")]
            why = f"{below[0].name}: {below[0].detail}" if below else "no files there"
            raise InputError(
                f"{storage.join(location, folder)}: no usable image ({why}); put the images of this"
                " look there"
            )
    source, target = kept
    return Domains(
        source=np.stack([image.pixels for image in source]),
        target=np.stack([image.pixels for image in target]),
        names=(tuple(image.name for image in source), tuple(image.name for image in target)),
        digests=(tuple(image.digest for image in source), tuple(image.digest for image in target)),
        excluded=tuple(excluded),
    )


@dataclass(frozen=True)
class _Image:
    name: str
    pixels: NDArray[np.uint8]
    digest: str


def _folders(location: str) -> tuple[str, str]:
    """The first of :data:`FOLDERS` of which both are there."""
    if not storage.exists(location):
        raise InputError(f"{location}: no such folder; give the one that holds lab/ and clinical/")
    there = [
        [name for name in pair if storage.exists(storage.join(location, name))] for pair in FOLDERS
    ]
    for pair, found in zip(FOLDERS, there, strict=True):
        if len(found) == 2:
            return pair
    for pair, found in zip(FOLDERS, there, strict=True):
        if found:
            (missing,) = {*pair} - {*found}
            raise InputError(
                f"{storage.join(location, missing)}: no such folder; it holds the other look beside"
                f" {found[0]}/"
            )
    raise InputError(
        f"{location}: holds no two looks; put laboratory images into lab/ and clinical ones into"
        " clinical/ (or A/ and B/, or trainA/ and trainB/)"
    )


def _read(
    location: str, folder: str, preprocessing: Preprocessing, excluded: list[Excluded]
) -> list[_Image]:
    def read(source: Source) -> _Image | Excluded:
        name = f"{folder}/{source.path}"
        if source.problem:
            return Excluded(name, "unreadable", source.problem)
        try:
            pixels = decode(storage.read_bytes(source.location), name=name, limits=CROP)
        except StorageError:  # the next file would fail too
            raise
        except (ImageError, InputError, OSError) as error:
            return Excluded(name, "unreadable", str(error))
        return _Image(name, resize_crop(pixels, preprocessing), image_digest(pixels))

    images = []
    # S3 answers slowly, so more threads wait for it than decode.
    threads = 16 if storage.is_remote(location) else cores()
    with one_thread(), ThreadPoolExecutor(threads) as pool:
        for outcome in pool.map(read, sources(storage.join(location, folder))):
            if isinstance(outcome, Excluded):
                excluded.append(outcome)
            else:
                images.append(outcome)
    return sorted(images, key=lambda image: (image.digest, image.name))
