"""Local folders and S3 behind one small set of functions.

A location is a local path or an ``s3://bucket/key`` URI. S3 goes through s3fs, which takes
credentials, region and a custom endpoint from the usual AWS variables (``AWS_ENDPOINT_URL``
for MinIO, Ceph or a test server).
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from fertiray.errors import InputError


def is_remote(location: str | Path) -> bool:
    """Whether the location is a URI such as ``s3://bucket/key`` rather than a local path."""
    return "://" in str(location)


def join(location: str | Path, *parts: str) -> str:
    """The location with path parts appended, always with forward slashes."""
    return "/".join([str(location).rstrip("/"), *parts])


def relative(file: str | Path, root: str | Path) -> str:
    """The path of a file below a folder, with forward slashes."""
    return filesystem(file)[1].removeprefix(filesystem(root)[1].rstrip("/") + "/")


def filesystem(location: str | Path) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a location and the location's path on it.

    Raises:
        InputError: the URI's scheme is not supported.
    """
    scheme = str(location).partition("://")[0] if is_remote(location) else "file"
    if scheme not in {"file", "s3", "memory"}:
        raise InputError(f"{location}: unsupported scheme {scheme!r}; use a local path or s3://")
    fs, path = url_to_fs(str(location))
    return fs, path


def exists(location: str | Path) -> bool:
    """Whether a file or a folder is there.

    Raises:
        InputError: the storage cannot be reached or refuses.
    """
    fs, path = filesystem(location)
    if not is_remote(location):
        return bool(fs.exists(path))
    from botocore.exceptions import BotoCoreError

    try:
        return bool(fs.exists(path))
    except (BotoCoreError, OSError) as error:
        raise InputError(
            f"{location}: cannot be reached ({error}); check the AWS credentials and"
            " AWS_ENDPOINT_URL"
        ) from error


def read_bytes(location: str | Path) -> bytes:
    """The whole file.

    Raises:
        InputError: there is no such file.
    """
    try:
        if not is_remote(location):
            return Path(location).read_bytes()
        fs, path = filesystem(location)
        data: bytes = fs.cat_file(path)
    except FileNotFoundError as error:
        raise InputError(f"{location}: no such file") from error
    return data


def write_bytes(location: str | Path, data: bytes) -> None:
    """Writes a file so that it is either absent, old or whole: never half written.

    Local files are written beside their final name, flushed to disk and renamed; an S3 object
    appears only when its upload is complete.

    Raises:
        InputError: the place does not exist or must not be written to.
    """
    try:
        _write(location, data)
    except (FileNotFoundError, FileExistsError, NotADirectoryError, PermissionError) as error:
        raise InputError(f"{location}: cannot be written ({error}); give another place") from error


def _write(location: str | Path, data: bytes) -> None:
    fs, path = filesystem(location)
    if is_remote(location):
        fs.pipe_file(path, data)
        return
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)


def list_files(location: str | Path, suffix: str = "") -> list[str]:
    """Full locations of all files below a folder, sorted; hidden and temporary files are left out.

    Returns an empty list where the folder does not exist.
    """
    fs, path = filesystem(location)
    fs.invalidate_cache(path)  # another process may have written meanwhile
    found: list[Any] = fs.find(path) if fs.exists(path) else []
    prefix = str(location).partition("://")[0] + "://" if is_remote(location) else ""
    names = sorted(str(name) for name in found)
    root = path.rstrip("/") + "/"
    return [
        prefix + name
        for name in names
        if name.endswith(suffix)
        and not any(part.startswith(".") for part in name.removeprefix(root).split("/"))
    ]


def remove(location: str | Path) -> None:
    """Deletes a file or a folder with all it holds; nothing happens where it does not exist."""
    fs, path = filesystem(location)
    if fs.exists(path):
        fs.rm(path, recursive=True)
