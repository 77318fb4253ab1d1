"""A client of the service: a few lines from a folder of crops to a patient table.

    client = Client("https://clinic.example:8000", token)
    job = client.submit("crops/", label="Monday")
    client.wait(job["id"])
    table = client.result(job["id"], form="csv")

It needs nothing of the rest of this package but its exceptions.
"""

from __future__ import annotations

import io
import random
import ssl
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import httpx2

from fertiray.errors import InputError

Format = Literal["json", "csv", "parquet", "html"]
Table = Literal["patients", "slides", "scores", "rejects"]
Job = dict[str, Any]

ENDED = ("done", "failed", "cancelled")
TRIES = 8
CHUNK = 2**20
PART = 16 * CHUNK  # of an upload, sent and held at a time
TOGETHER = 32  # images in one request; the service takes 64


class Client:
    """A service, seen with one token.

    What the service is too busy for, and what fails on the way, is tried again; an upload carries
    an idempotency key, so that it becomes one job however often it was sent.

    Args:
        url: of the service.
        token: as ``fertiray token add`` shows it.
        ca: PEM file of the certificate authority, where it is not a public one.
        timeout: seconds that one answer may take.
    """

    def __init__(self, url: str, token: str, *, ca: str | None = None, timeout: float = 60) -> None:
        verify = ssl.create_default_context(cafile=ca) if ca else True
        self._http = httpx2.Client(
            base_url=url,
            headers={"authorization": f"Bearer {token}"},
            timeout=httpx2.Timeout(timeout, write=None),
            verify=verify,
        )
        self.url = url

    def models(self) -> list[dict[str, Any]]:
        """The served models, the preferred one first."""
        models: list[dict[str, Any]] = self._json("GET", "/v1/models")["models"]
        return models

    def score(
        self, images: Sequence[str | Path], models: Sequence[str] = ()
    ) -> list[dict[str, Any]]:
        """Scores image files at once: one row an image and model.

        Raises:
            InputError: the service refuses; the message says why.
        """
        rows: list[dict[str, Any]] = []
        for start in range(0, len(images), TOGETHER):
            files = [
                ("images", (Path(image).name, Path(image).read_bytes()))
                for image in images[start : start + TOGETHER]
            ]
            own = self._json("POST", "/v1/score", files=files, params={"models": list(models)})
            rows += [{**row, "index": row["index"] + start} for row in own["rows"]]
        return rows

    def submit(
        self,
        source: str | Path,
        *,
        store: bool = False,
        label: str | None = None,
        models: Sequence[str] = (),
        verdict_on: Literal["prevalence", "fraction"] = "prevalence",
        strip: int = 0,
        key: str | None = None,
    ) -> Job:
        """Makes a job of many crops.

        Args:
            source: a folder ``patient/slide/image``, an archive of one (zip, tar, tar.gz), a
                Parquet file, or the ``s3://`` location of a crop store that the service may read.
            store: the source is a crop store on a disk of the service.
            label: your name for it; by default the source's.
            models: names or ids; all that are served by default.
            verdict_on: what the verdict follows.
            strip: leading folders of the archive to leave out.
            key: idempotency key; a fresh one by default.

        Returns:
            The job as the service shows it.

        Raises:
            InputError: no such source, or the service refuses; the message says why.
        """
        params = {
            "label": label or Path(str(source)).name or "cohort",
            "models": list(models),
            "verdict_on": verdict_on,
            "strip": strip,
        }
        headers = {"idempotency-key": key or str(uuid.uuid4())}
        if store or "://" in str(source):
            body: dict[str, Any] = {"json": {"store": str(source)}}
            return self._json("POST", "/v1/jobs", params=params, headers=headers, **body)
        path = Path(source)
        if not path.exists():
            raise InputError(f"{source}: no such file or folder")
        upload = self._upload(_tar(path) if path.is_dir() else _file(path))
        body = {"json": {"upload": upload}}
        return self._json("POST", "/v1/jobs", params=params, headers=headers, **body)

    def job(self, job_id: str) -> Job:
        """How far a job is."""
        return self._json("GET", f"/v1/jobs/{job_id}")

    def jobs(self) -> list[Job]:
        """This clinic's jobs, the newest first."""
        jobs: list[Job] = self._json("GET", "/v1/jobs")["jobs"]
        return jobs

    def wait(
        self, job_id: str, progress: Callable[[int, int], None] | None = None, every: float = 1
    ) -> Job:
        """Waits for a job's end.

        Args:
            job_id: of the job.
            progress: called with the crops done and the crops in all.
            every: seconds between two looks.

        Returns:
            The job, ``done``, ``failed`` or ``cancelled``.
        """
        while True:
            job = self.job(job_id)
            if progress is not None and job["total"]:
                progress(job["done"], job["total"])
            if job["state"] in ENDED:
                return job
            time.sleep(every)

    def result(self, job_id: str, form: Format = "json", table: Table = "patients") -> bytes:
        """A finished job's table as a file's bytes; ``html`` is the report."""
        params = {"format": form, "table": table}
        return self._send("GET", f"/v1/jobs/{job_id}/result", params=params).content

    def cancel(self, job_id: str) -> Job:
        """Stops a job."""
        return self._json("POST", f"/v1/jobs/{job_id}/cancel")

    def delete(self, job_id: str) -> None:
        """Deletes a job that has ended, with all that was sent and found."""
        self._send("DELETE", f"/v1/jobs/{job_id}")

    def _upload(self, content: Iterator[bytes]) -> str:
        """Sends an archive in parts; one that fails on the way is sent again.

        Returns:
            The upload's id.
        """
        upload: str = self._json("POST", "/v1/uploads")["id"]
        place, offset = f"/v1/uploads/{upload}", 0
        for part in _parts(content, PART):
            end = offset + len(part)
            while offset < end:
                rest = part[offset - end :]
                try:
                    params = {"offset": offset}
                    answer = self._json("PATCH", place, params=params, content=rest)
                except InputError:  # the part may have come in although its answer got lost
                    answer = self._json("GET", place)
                    if answer["bytes"] != end:
                        raise
                offset = answer["bytes"]
        return upload

    def _json(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        found: dict[str, Any] = self._send(*args, **kwargs).json()
        return found

    def _send(
        self,
        method: str,
        path: str,
        **options: Any,
    ) -> httpx2.Response:
        """Sends a request until there is an answer that is not "later"."""
        for attempt in range(TRIES):
            last = attempt == TRIES - 1
            pause = min(30.0, 0.5 * 2**attempt)
            try:
                answer = self._http.request(method, path, **options)
            except httpx2.TransportError as error:
                if "CERTIFICATE_VERIFY_FAILED" in str(error):
                    raise InputError(
                        f"{self.url}: {error}; name the certificate's authority (ca, --ca)"
                    ) from error
                if last:
                    raise InputError(f"{self.url}: cannot be reached ({error})") from error
            else:
                if answer.status_code not in (429, 502, 503, 504) or last:
                    return _checked(answer, f"{self.url}{path}")
                pause = max(pause, _retry_after(answer))
            # Clients that were refused together must not come back together.
            time.sleep(pause * random.uniform(1, 1.5))
        raise AssertionError("unreachable")


def _retry_after(answer: httpx2.Response) -> float:
    """Seconds; 0 where none are named (a proxy may name a date)."""
    try:
        return min(60.0, float(answer.headers["retry-after"]))
    except (KeyError, ValueError):
        return 0.0


def _checked(answer: httpx2.Response, where: str) -> httpx2.Response:
    if answer.is_success:
        return answer
    try:
        said = answer.json()["detail"]
    except (ValueError, KeyError):
        said = answer.reason_phrase
    raise InputError(f"{where}: {answer.status_code}: {said}")


def _parts(content: Iterator[bytes], size: int) -> Iterator[bytes]:
    """The same bytes in pieces of one size; the last one may be smaller."""
    held = bytearray()
    for piece in content:
        held += piece
        while len(held) >= size:
            yield bytes(held[:size])
            del held[:size]
    if held:
        yield bytes(held)


def _file(path: Path) -> Iterator[bytes]:
    with path.open("rb") as opened:
        while chunk := opened.read(CHUNK):
            yield chunk


def _tar(folder: Path) -> Iterator[bytes]:
    """A folder as a tar, the same bytes for the same files, never whole in memory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w|") as archive:
        for file in sorted(folder.rglob("*")):
            hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
            if hidden or not file.is_file():
                continue
            info = tarfile.TarInfo(file.relative_to(folder).as_posix())
            info.size = file.stat().st_size
            with file.open("rb") as opened:
                archive.addfile(info, opened)
            yield from _drained(buffer)
    yield from _drained(buffer)


def _drained(buffer: io.BytesIO) -> Iterator[bytes]:
    if data := buffer.getvalue():
        buffer.seek(0)
        buffer.truncate()
        yield data
