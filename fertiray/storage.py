"""Local folders and S3 behind one small set of functions.

A location is a local path or an ``s3://bucket/key`` URI. S3 goes through s3fs, which takes
credentials, region and a custom endpoint from the usual AWS variables (``AWS_ENDPOINT_URL``
for MinIO, Ceph or a test server). What S3 fails to do for a moment is asked again, see
:mod:`fertiray.s3`.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from fertiray import s3
from fertiray.errors import InputError, StorageError

PART = 50 * 2**20  # bytes; an object of two parts or more is uploaded in parts
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


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

    Requests to S3 that fail for a moment are repeated, whoever makes them on this file system;
    those that fail for good raise :class:`StorageError`, or FileNotFoundError.

    Raises:
        InputError: the URI's scheme is not supported.
    """
    scheme = str(location).partition("://")[0] if is_remote(location) else "file"
    if scheme not in {"file", "s3", "memory"}:
        raise InputError(f"{location}: unsupported scheme {scheme!r}; use a local path or s3://")
    if scheme != "s3":
        fs, path = url_to_fs(str(location))
        return fs, path
    # Listings are not kept: other processes write there. One connection a file reads it in one
    # request, which is of one version of it, whatever is written meanwhile. Threads do not wait for
    # each other's connections, which would count against the time that a try has.
    fs = s3.patient_s3()(
        use_listings_cache=False,
        max_concurrency=1,
        config_kwargs={"retries": {"total_max_attempts": 1}, "max_pool_connections": 256},
        endpoint_url=os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
    )
    return fs, fs._strip_protocol(str(location))


def exists(location: str | Path) -> bool:
    """Whether a file or a folder is there.

    Raises:
        InputError: the storage cannot be reached or refuses.
    """
    fs, path = filesystem(location)
    if not is_remote(location):
        return bool(fs.exists(path))
    try:
        fs.info(path)  # s3fs's own exists says no where a bucket cannot be asked
    except FileNotFoundError:
        return False
    return True


def read_bytes(location: str | Path) -> bytes:
    """The whole file.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    with _explained(location, "read"):
        if not is_remote(location):
            return Path(location).read_bytes()
        fs, path = filesystem(location)
        data: bytes = fs.cat_file(path)
        return data


def write_bytes(location: str | Path, data: bytes) -> None:
    """Writes a file so that it is either absent, old or whole: never half written.

    Local files are written beside their final name, flushed to disk and renamed; an S3 object
    appears only when its upload is complete.

    Raises:
        InputError: the place does not exist, is full or must not be written to.
    """
    with _explained(location, "written"):
        _write(location, data)


def _write(location: str | Path, data: bytes) -> None:
    fs, path = filesystem(location)
    if is_remote(location):
        fs.pipe_file(path, data, chunksize=PART)
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

    Raises:
        InputError: the folder cannot be listed.
    """
    fs, path = filesystem(location)
    strict = {} if is_remote(location) else {"on_error": _unless_gone}
    found: list[Any] = []
    with _explained(location, "listed"):
        try:
            found = fs.find(path, **strict)
        except FileNotFoundError:  # not even the bucket
            return []
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
    """Deletes a file or a folder with all it holds; nothing happens where it does not exist.

    Raises:
        InputError: it cannot be deleted, or not all of it.
    """
    fs, path = filesystem(location)
    with _explained(location, "deleted"):
        if exists(location):
            fs.rm(path, recursive=True)
    # S3 deletes many objects in one request and reports those it kept in an answer that says 200.
    if is_remote(location) and fs.find(path):
        raise StorageError(
            f"{location}: not all of it could be deleted; check that the AWS credentials allow it,"
            " and run the same command again"
        )


def _unless_gone(error: OSError) -> None:
    """What to do about a folder that cannot be listed: a folder less is no mistake."""
    if not isinstance(error, FileNotFoundError):
        raise error


@contextmanager
def _explained(location: str | Path, done: str) -> Iterator[None]:
    """Turns what the disk refuses into one line that names the location and the remedy."""
    try:
        yield
    except FileNotFoundError as error:
        if done == "read":
            raise InputError(f"{location}: no such file") from error
        raise InputError(f"{location}: cannot be {done} ({error}); give another place") from error
    except OSError as error:
        if error.errno in _FULL:
            raise StorageError(
                f"{location}: no room to write ({error.strerror}); free space there or raise the"
                " quota, and run the same command again"
            ) from error
        if error.errno == errno.EIO and done != "read":
            raise StorageError(
                f"{location}: cannot be {done} ({error.strerror}); check the disk, and run the"
                " same command again"
            ) from error
        remedy = "give another place" if done == "written" else "check its permissions and the disk"
        raise InputError(f"{location}: cannot be {done} ({error}); {remedy}") from error
