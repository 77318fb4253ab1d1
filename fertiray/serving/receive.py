"""What comes in: uploads streamed to disk, images out of requests, places against a list."""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from fertiray.serving.limits import Limits
from fertiray.serving.schemas import Images


async def append(request: Request, file: Path, offset: int, limits: Limits) -> int:
    """Streams a request's body to the end of an upload; all of it is there, or nothing.

    Args:
        request: its body is the part.
        file: the upload.
        offset: bytes of it that are there.
        limits: ``upload_bytes`` and ``free_bytes`` count here.

    Returns:
        The bytes that are there now.

    Raises:
        HTTPException: 400 where the client broke off or sent nothing, 409 where the offset is not
            where the file ends or another part is just coming in, 413 where it is too much, 503
            where the disk is nearly full.
    """
    if shutil.disk_usage(file.parent).free < limits.free_bytes:
        raise HTTPException(503, "the disk is nearly full; try later", {"retry-after": "60"})
    with file.open("r+b") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise HTTPException(409, "another part is just coming in; wait for it") from error
        size = opened.seek(0, os.SEEK_END)
        if size != offset:
            raise HTTPException(409, f"the upload has {size} bytes; go on there")
        try:
            async for chunk in request.stream():
                size += len(chunk)
                if size > limits.upload_bytes:
                    raise HTTPException(413, f"an archive has at most {limits.upload_bytes} bytes")
                opened.write(chunk)
            if size == offset:
                raise HTTPException(400, "the body is empty; send the archive as the body")
        except ClientDisconnect as error:
            opened.truncate(offset)
            raise HTTPException(400, "the upload broke off; send it again") from error
        except BaseException:
            opened.truncate(offset)
            raise
    return size


def digest(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


async def images(request: Request, limits: Limits) -> list[tuple[str | None, bytes]]:
    """The images of a request and their file names: multipart files, or base64 in JSON.

    Raises:
        HTTPException: 415 for another content type, 422 for a body that is not as described, 413
            for more images than are allowed.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        found = await _multipart(request, limits)
    elif kind == "application/json":
        found = _json(await request.body())
    else:
        raise HTTPException(415, "send multipart/form-data or application/json")
    if not found:
        raise HTTPException(422, "no image in the request; send files, or a list of images")
    if len(found) > limits.images:
        raise HTTPException(413, f"more than {limits.images} images; make a job of them")
    return found


async def _multipart(request: Request, limits: Limits) -> list[tuple[str | None, bytes]]:
    found: list[tuple[str | None, bytes]] = []
    async with request.form(max_files=limits.images + 1, max_fields=16) as form:
        for _, value in form.multi_items():
            if isinstance(value, UploadFile):
                found.append((value.filename, await value.read()))
    return found


def _json(body: bytes) -> list[tuple[str | None, bytes]]:
    try:
        texts = Images.model_validate_json(body).images
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise HTTPException(422, f"{plain(where)}: {plain(first['msg'])}") from error
    found: list[tuple[str | None, bytes]] = []
    for place, text in enumerate(texts):
        try:
            found.append((None, base64.b64decode(text, validate=True)))
        except (binascii.Error, ValueError) as error:
            raise HTTPException(422, f"images.{place}: not base64") from error
    return found


def allowed(location: str, prefixes: Sequence[str]) -> str | None:
    """A crop store's location in its plain form, if it lies below one of the prefixes.

    Args:
        location: absolute local path or ``s3://`` URI, from outside.
        prefixes: locations that are allowed, with all that lies below them.

    Returns:
        The location, links resolved; None where it is not allowed, whether it exists or not.
    """
    if any(ord(letter) < 32 for letter in location) or ".." in location.split("/"):
        return None
    if "://" in location:
        parts = location.removeprefix("s3://").rstrip("/").split("/")
        if not location.startswith("s3://") or any(part in ("", ".") for part in parts):
            return None
        plain_form = "s3://" + "/".join(parts)
    elif location.startswith("/"):
        plain_form = str(Path(location).resolve())
    else:
        return None
    for prefix in prefixes:
        own = prefix if "://" in prefix else str(Path(prefix).resolve())
        if (plain_form + "/").startswith(own.rstrip("/") + "/"):
            return plain_form
    return None


def plain(text: str) -> str:
    """A text from outside, fit for an answer: ASCII, cut short."""
    return text.encode("ascii", "backslashreplace").decode()[:200]
