"""``fertiray data translate``: a folder of images in one look into the same folder in another.

The tree stays as it is, so class folders, patients and slides mean what they meant, and the new
folder can be trained on or scored like the old one. Every image becomes a PNG of the generator's
size; one that was not named ``.png`` has that appended, and ``labels.csv`` follows.

Files that are no images are copied. Tables of positions (``heads.csv``, ``annotations.json``) are
not: they count in pixels of the originals.
"""

from __future__ import annotations

import csv
import io
import json
import os
import posixpath
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fertiray import generator_checkpoint, storage
from fertiray.data.crops import is_store
from fertiray.data.folders import SIDECARS, Source, check_apart, inventory, sources
from fertiray.data.images import CROP, EXTENSIONS, ImageError, decode, encode_png
from fertiray.errors import InputError, StorageError
from fertiray.models.preprocess import Preprocessing, resize_crop
from fertiray.models.translator import Translator

RECORD = ".translation.json"  # hidden, so that nothing takes it for an image
LABELS, COPIED = "labels.csv", "truth.json"
CHUNK = 64

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Read:
    """One file: its pixels, or its bytes where it is no image, or why it is not usable."""

    source: Source
    pixels: NDArray[np.uint8] | None = None
    data: bytes | None = None
    reason: str = ""


def translate(
    folder: str,
    images: str,
    out: str,
    device: str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Applies a trained generator to every image of a folder tree.

    An interrupted call is taken up again by the same call: images that are there are not made
    again. A file that cannot be used is listed and never ends the run.

    Args:
        folder: generator folder (:mod:`fertiray.generator_checkpoint`).
        images: tree of images, local or ``s3://``.
        out: folder to write: absent, empty, or from the same call; local or ``s3://``.
        device: a torch device.
        progress: called with the files done and the files in all.

    Returns:
        ``out``; ``generator`` (its name); ``size`` of an image in pixels; ``n`` with ``images``
        (= ``translated`` now + ``kept`` from before + ``rejected``), ``copied`` files and
        ``rows_dropped`` from ``labels.csv``, those of rejected images; ``rejected`` (name and
        reason of each); and ``left_out``, the tables of positions.

    Raises:
        InputError: no generator, no images, a crop store, or an ``out`` that holds something else.
    """
    generator, meta = generator_checkpoint.load(folder)
    if is_store(images):
        raise InputError(
            f"{images}: is a crop store; translate the folder of images it was made from and ingest"
            " the result"
        )
    check_apart(images, out)
    found = inventory(images)
    _begin(out, {"generator": meta.weights_sha256, "source_digest": found.digest})
    there = {storage.relative(place, out) for place in storage.list_files(out)}
    names = _names(source.path for source in sources(images))
    translator = Translator(generator, meta.preprocessing, device)
    n = dict.fromkeys(("images", "translated", "kept", "rejected", "copied", "rows_dropped"), 0)
    rejected: dict[str, str] = {}
    done = 0
    # Threads: decoding runs outside Python's lock, and S3 answers slowly.
    threads = 16 if storage.is_remote(images) else min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        for chunk in _chunks(sources(images)):
            new = [source for source in chunk if names.get(source.path) not in there]
            n["kept"] += len(chunk) - len(new)
            read = list(pool.map(lambda source: _read(source, names, meta.preprocessing), new))
            rejected |= {one.source.path: one.reason for one in read if one.reason}
            writes = [(one.source.path, one.data) for one in read if one.data is not None]
            n["copied"] += len(writes)
            usable = [(one.source.path, one.pixels) for one in read if one.pixels is not None]
            if usable:
                pictures = translator(np.stack([pixels for _, pixels in usable]))
                writes += [
                    (names[path], encode_png(picture))
                    for (path, _), picture in zip(usable, pictures, strict=True)
                ]
                n["translated"] += len(usable)
            list(
                pool.map(
                    lambda item: storage.write_bytes(storage.join(out, item[0]), item[1]), writes
                )
            )
            done += len(chunk)
            if progress is not None:
                progress(done, found.files)
    n["rejected"] = len(rejected)
    n["images"] = n["translated"] + n["kept"] + n["rejected"]
    left_out = _copy_tables(images, out, names, rejected, n)
    return {
        "out": out,
        "generator": meta.name,
        "size": meta.preprocessing.size,
        "n": n,
        "rejected": [{"image": path, "reason": reason} for path, reason in rejected.items()],
        "left_out": left_out,
    }


def _begin(out: str, record: dict[str, Any]) -> None:
    """Claims the output folder, or finds that it was claimed for the same work."""
    place = storage.join(out, RECORD)
    if storage.exists(place):
        if json.loads(storage.read_bytes(place)) != record:
            raise InputError(
                f"{out}: holds images of another translation (another generator, or other images);"
                " delete it or give another folder"
            )
    elif storage.list_files(out):
        raise InputError(f"{out}: is not empty; give a folder of its own")
    else:
        storage.write_bytes(place, json.dumps(record).encode())


def _names(paths: Iterator[str]) -> dict[str, str]:
    """What each file's translation is called; two never share a name."""
    own = list(paths)
    taken = set(own)
    names = {}
    for path in own:
        name = path
        if not path.lower().endswith(".png"):
            name += ".png"
            while name in taken:  # a.jpg beside a.jpg.png
                name = name.removesuffix(".png") + "-.png"
            taken.add(name)
        names[path] = name
    return names


def _chunks(found: Iterator[Source]) -> Iterator[Sequence[Source]]:
    chunk: list[Source] = []
    for source in found:
        chunk.append(source)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _read(source: Source, names: Mapping[str, str], preprocessing: Preprocessing) -> _Read:
    if source.problem:
        return _Read(source, reason=source.problem)
    if source.path not in names:
        return _Read(source, reason="appeared while the others were translated; call again")
    try:
        data = storage.read_bytes(source.location)
    except StorageError:  # the next file would fail too
        raise
    except (InputError, OSError) as error:
        return _Read(source, reason=f"unreadable: {error}")
    try:
        pixels = decode(data, name=source.path, limits=CROP)
    except ImageError as error:
        suffix = source.path.rpartition(".")[2].lower()
        if error.reason == "not-an-image" and suffix not in EXTENSIONS:
            return _Read(source, data=data)
        return _Read(source, reason=str(error))
    return _Read(source, pixels=resize_crop(pixels, preprocessing))


def _copy_tables(
    images: str, out: str, names: Mapping[str, str], rejected: Collection[str], n: dict[str, int]
) -> list[str]:
    """Copies and counts the tables beside the images; gives the paths of those left out."""
    left_out = []
    for place in storage.list_files(images):
        path = storage.relative(place, images)
        name = posixpath.basename(path)
        if name in (LABELS, COPIED):
            data = storage.read_bytes(place)
            if name == LABELS:
                data, dropped = _renamed(data, path, names, rejected)
                n["rows_dropped"] += dropped
            storage.write_bytes(storage.join(out, path), data)
            n["copied"] += 1
        elif name in SIDECARS:
            left_out.append(path)
    return left_out


def _renamed(
    data: bytes, path: str, names: Mapping[str, str], rejected: Collection[str]
) -> tuple[bytes, int]:
    """A table with the new names of its images, and how many rows of rejected ones it lost."""
    rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig", errors="replace"))))
    header = [name.strip().lower() for name in rows[0]] if rows else []
    if "image" not in header:
        return data, 0
    column, folder = header.index("image"), posixpath.dirname(path)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(rows[0])
    dropped = 0
    for row in rows[1:]:
        if len(row) > column:
            image = posixpath.normpath(posixpath.join(folder, row[column].strip()))
            if image in rejected:
                dropped += 1
                continue
            if image in names:
                row[column] = posixpath.relpath(names[image], folder or ".")
        table.writerow(row)
    return text.getvalue().encode(), dropped
