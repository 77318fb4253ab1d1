"""One place where requests to S3 are repeated.

What S3 fails to do for a moment (status 5xx or 429, no connection, no answer, an answer cut short)
is asked again after 0.1 s, 0.2 s, ... and at most 5 s, until :data:`PATIENCE` has passed since the
first failure (or ``AWS_MAX_ATTEMPTS`` is reached, where set). A try ends after 5 s without a
connection, 15 s in which nothing comes, or 20 s and 4 s a MiB in which data were not taken. So an
outage ends a command after about 35 s where connections are refused and 75 s where nothing answers.
What cannot succeed by waiting (403, 404, no credentials) is not asked again.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

from fertiray.errors import StorageError

PATIENCE = 30.0  # seconds from the first failure to the last try of a request
# Data are sent within this time and that for each MiB. aiohttp knows no such limit: it
# waits for ever for a server that does not say whether it wants the body ("100 Continue").
SEND_BASE_S = 20.0
SEND_S_PER_MIB = 4.0
_LONGEST_PAUSE = 5.0

_AGAIN = {
    *("RequestTimeout", "OperationAborted"),
    # What arrived is not what was sent.
    *("IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch"),
}
_REPLACED = {"PreconditionFailed", "412", "InvalidRange", "416"}


@functools.cache
def patient_s3() -> Any:
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
