"""Which files of a folder are images, of which patient and which slide.

========================  =======================  ===================================
layout                    patient_id               slide_id
========================  =======================  ===================================
``patient/slide/image``   first folder             second folder (deeper: joined by /)
``patient/image``         the folder               ``slide-1``
``image``                 name of the input folder ``slide-1``
any, with ``group_by``    from the file's name     as above
========================  =======================  ===================================

Every regular file counts, whatever its name says, so that nothing is dropped without a word: what
is not an image becomes a reject. Left out are hidden files and the tables that describe a cohort
(``labels.csv``, ``heads.csv``, ``truth.json``, ``annotations.json``). Symbolic links to folders,
and links to files outside the input folder, are not followed.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fertiray import storage
from fertiray.errors import InputError

SIDECARS = ("labels.csv", "heads.csv", "truth.json", "annotations.json", "Thumbs.db", "desktop.ini")
ONLY_SLIDE = "slide-1"


@dataclass(frozen=True)
class Source:
    """A file to be read.

    Attributes:
        location: where it is.
        path: path relative to the input folder, with forward slashes.
        patient_id: patient, or None where ``group_by`` does not match the name.
        slide_id: slide.
        size: bytes.
        problem: why it must not or cannot be read; empty where there is nothing to say.
    """

    location: str
    path: str
    patient_id: str | None
    slide_id: str
    size: int
    problem: str = ""


@dataclass(frozen=True)
class Inventory:
    """What a folder holds, in two numbers.

    Attributes:
        files: number of sources.
        digest: identifies their paths and sizes, wherever the folder is.
    """

    files: int
    digest: str


def sources(folder: str, group_by: str | None = None) -> Iterator[Source]:
    """All sources of a folder, sorted by path; one directory's names are in memory at a time.

    Args:
        folder: local folder or ``s3://`` prefix.
        group_by: regular expression searched in the file name; its first group, or the whole match
            where it has none, is the patient.

    Raises:
        InputError: the folder is missing or the expression is not valid.
    """
    pattern = _compiled(group_by)
    if not storage.exists(folder):
        raise InputError(f"{folder}: no such folder")
    found = _remote(folder) if storage.is_remote(folder) else _local(Path(folder).resolve())
    own_name = storage.filesystem(folder)[1].rstrip("/").rpartition("/")[2]
    for location, path, size, problem in found:
        *folders, name = path.split("/")
        patient: str | None = folders[0] if folders else own_name
        if pattern:
            match = pattern.search(name)
            patient = (match[1] if pattern.groups else match[0]) if match else None
        if not patient and not problem:
            problem = f"the file name does not match {group_by!r}, so the patient is unknown"
        slide = "/".join(folders[1:]) or ONLY_SLIDE
        yield Source(location, path, patient or None, slide, size, problem)


def inventory(folder: str, group_by: str | None = None) -> Inventory:
    """Counts the sources of a folder and digests their names and sizes.

    Raises:
        InputError: as ``sources``; also where there are no files or ``group_by`` matches none.
    """
    digest = hashlib.sha256()
    files = matched = 0
    for source in sources(folder, group_by):
        digest.update(f"{source.path}\0{source.size}\n".encode())
        files += 1
        matched += source.patient_id is not None
    if not files:
        raise InputError(f"{folder}: no files there; give a folder of images")
    if not matched:
        raise InputError(
            f"--group-by {group_by!r} matches none of the {files} file names in {folder}"
        )
    return Inventory(files, digest.hexdigest()[:16])


def check_apart(folder: str, store: str) -> None:
    """Refuses a store inside the folder it is made from, where it would become its own input.

    Raises:
        InputError: it is.
    """
    inner = storage.filesystem(store)[1].rstrip("/") + "/"
    outer = storage.filesystem(folder)[1].rstrip("/") + "/"
    if storage.is_remote(folder) == storage.is_remote(store) and inner.startswith(outer):
        raise InputError(f"{store}: lies inside the input {folder}; give a folder outside it")


def chunks(
    found: Iterable[Source], max_files: int, max_bytes: int | None = None
) -> Iterator[list[Source]]:
    """Cuts sources into runs of at most ``max_files``, and not much over ``max_bytes`` each."""
    chunk: list[Source] = []
    size = 0
    for source in found:
        chunk.append(source)
        size += source.size
        if len(chunk) == max_files or (max_bytes is not None and size >= max_bytes):
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _compiled(group_by: str | None) -> re.Pattern[str] | None:
    if group_by is None:
        return None
    try:
        return re.compile(group_by)
    except re.error as error:
        raise InputError(f"--group-by {group_by!r} is not a regular expression: {error}") from error


def _left_out(name: str) -> bool:
    return name.startswith(".") or name in SIDECARS


def _printable(name: str) -> str:
    r"""A file name as valid text; bytes that are none become ``\xNN``."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _local(root: Path) -> Iterator[tuple[str, str, int, str]]:
    if not root.is_dir():
        raise InputError(f"{root}: is a file; give a folder of images")
    yield from _walk(root, root, "")


def _walk(root: Path, folder: Path, prefix: str) -> Iterator[tuple[str, str, int, str]]:
    """Location, relative path, size and problem of the files below a local folder."""
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except PermissionError:
        yield str(folder), prefix.rstrip("/"), 0, "no permission to list this folder"
        return
    for entry in entries:
        path = prefix + _printable(entry.name)
        if _left_out(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(root, Path(entry.path), path + "/")
        elif entry.is_symlink() and not Path(os.path.realpath(entry.path)).is_relative_to(root):
            yield entry.path, path, 0, "a symbolic link that leads out of the input folder"
        elif os.path.isfile(entry.path):  # false for a link that leads to itself
            yield entry.path, path, entry.stat().st_size, ""
        else:
            yield entry.path, path, 0, "not a regular file"


def _remote(folder: str) -> Iterator[tuple[str, str, int, str]]:
    fs, root = storage.filesystem(folder)
    fs.invalidate_cache(root)
    scheme = folder.partition("://")[0]
    found = {
        tuple(storage.relative(f"{scheme}://{name}", folder).split("/")): int(info["size"])
        for name, info in fs.find(root, detail=True).items()
        if info["type"] == "file"
    }
    for parts, size in sorted(found.items()):
        if not any(_left_out(part) for part in parts) and parts[-1]:
            yield storage.join(folder, *parts), "/".join(parts), size, ""
