"""Local folders and S3 behind one small set of functions.

A location is a local path or an ``s3://bucket/key`` URI. S3 goes through s3fs, which takes
credentials, region and a custom endpoint from the usual AWS variables (``AWS_ENDPOINT_URL``
for MinIO, Ceph or a test server).

What S3 fails to do for a moment (status 5xx or 429, no connection, no answer, an answer cut short)
is asked again after 0.1 s, 0.2 s, ... and at most 5 s, until :data:`PATIENCE` has passed since the
first failure (or ``AWS_MAX_ATTEMPTS`` is reached, where set). A try ends after 5 s without a
connection, 15 s in which nothing comes, or 20 s and 4 s a MiB in which data were not taken. So an
outage ends a command after about 35 s where connections are refused and 75 s where nothing answers.
What cannot succeed by waiting (403, 404, no credentials) is not asked again.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from fertiray.errors import InputError

PATIENCE = 30.0  # seconds from the first failure to the last try of a request
# Data are sent within this time and that for each MiB. aiohttp knows no such limit: it
# waits for ever for a server that does not say whether it wants the body ("100 Continue").
SEND_BASE_S = 20.0
SEND_S_PER_MIB = 4.0
PART = 50 * 2**20  # bytes; an object of two parts or more is uploaded in parts
_LONGEST_PAUSE = 5.0

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_AGAIN = {
    *("RequestTimeout", "OperationAborted"),
    # What arrived is not what was sent.
    *("IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch"),
}
_REPLACED = {"PreconditionFailed", "412", "InvalidRange", "416"}


class StorageError(InputError):
    """The storage cannot be reached, refuses or is full: whatever is asked of it next fails too.

    So it ends a command, which goes on where it stopped once the storage is back; where other
    unreadable input becomes a reject, this must not.
    """


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
    fs = _patient_s3()(
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


@functools.cache
def _patient_s3() -> Any:
    """s3fs with one place where requests are repeated instead of its own two and botocore's."""
    import s3fs

    class PatientS3(s3fs.S3FileSystem):  # type: ignore[misc]
        retries = 1
        connect_timeout = 5
        read_timeout = 15

        async def _call_s3(self, method: str, *given: Any, **named: Any) -> Any:
            where = f"s3://{named.get('Bucket')}/{named.get('Key') or named.get('Prefix') or ''}"
            # Parts of an upload that is given up are of no use: not worth waiting for.
            patience = 0.0 if method == "abort_multipart_upload" else PATIENCE
            sent = named.get("Body")
            longest = None if sent is None else SEND_BASE_S + SEND_S_PER_MIB * len(sent) / 2**20
            call = functools.partial(super()._call_s3, method, *given, **named)
            return await _patiently(where, call, longest, patience)

    return PatientS3


class _Body:
    """A body that has come completely, read as s3fs reads one that is still coming."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self) -> bytes:
        return self._data

    def close(self) -> None:
        """Nothing is open any more."""


async def _patiently(
    where: str, call: Callable[[], Awaitable[Any]], longest: float | None, patience: float
) -> Any:
    """Makes a request until it is answered in full, in tries of at most ``longest`` seconds."""
    from aiohttp import ClientError as Broken
    from botocore.exceptions import BotoCoreError, ClientError

    most = os.environ.get("AWS_MAX_ATTEMPTS", "")
    tries, pause, given_up = 0, 0.1, 0.0
    while True:
        tries += 1
        try:
            answer = await asyncio.wait_for(call(), longest)
            if "Body" in answer:
                answer["Body"] = _Body(await answer["Body"].read())
            return answer
        except (OSError, ValueError, BotoCoreError, ClientError, Broken) as error:
            # s3fs raises OSErrors in place of S3's own error codes.
            cause = error.__cause__ if isinstance(error.__cause__, ClientError) else error
            # An upload that is unknown was completed by a try whose answer was lost, or ended.
            if isinstance(error, FileNotFoundError) and _code(cause) != "NoSuchUpload":
                raise
            now = time.monotonic()
            given_up = given_up or now + patience
            enough = most.isdigit() and tries >= int(most)
            if enough or now + pause > given_up or not _passes(cause):
                raise _refusal(where, cause) from error
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(2 * pause, _LONGEST_PAUSE)


def _code(error: BaseException) -> str:
    """S3's name of an error; empty where it did not come from S3."""
    from botocore.exceptions import ClientError

    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else ""


def _passes(error: BaseException) -> bool:
    """Whether the same request may succeed in a moment."""
    from aiohttp import ClientError as Broken
    from botocore import exceptions

    if isinstance(error, exceptions.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status in {408, 429} or (status >= 500 and status != 501) or _code(error) in _AGAIN
    # Of OSErrors only those of connections, which aiohttp and the operating system raise.
    return isinstance(
        error,
        TimeoutError
        | ConnectionError
        | Broken
        | exceptions.ConnectionError
        | exceptions.HTTPClientError
        | exceptions.IncompleteReadError,
    )


def _refusal(where: str, error: BaseException) -> StorageError:
    said = " ".join(str(error).split())[:200] or type(error).__name__
    if _code(error) in _REPLACED:
        return StorageError(f"{where}: was replaced while it was read; run the same command again")
    if _passes(error):
        return StorageError(
            f"{where}: cannot be reached ({said}); check AWS_ENDPOINT_URL, and run the same command"
            " again when the storage answers"
        )
    return StorageError(
        f"{where}: refused ({said}); check the AWS credentials and AWS_ENDPOINT_URL, and run the"
        " same command again"
    )
