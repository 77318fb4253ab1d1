"""What the routes share: the service they stand on, its models, and who asks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, HTTPException, Query, Request

from fertiray.data.images import encode_png
from fertiray.errors import InputError
from fertiray.serving import catalogue, schemas
from fertiray.serving.audit import Audit
from fertiray.serving.catalogue import Served
from fertiray.serving.interactive import Backend
from fertiray.serving.jobs import Job, JobStore
from fertiray.serving.limits import Limits
from fertiray.serving.places import Places
from fertiray.serving.tokens import Keyring, Token

log = logging.getLogger(__name__)

CHECK_S = 2.0  # between looks at models.json

Responses = dict[int | str, dict[str, Any]]

PROBLEMS: Responses = {
    code: {"model": schemas.Problem, "description": text}
    for code, text in {
        400: "A body that is not what it says",
        401: "No valid token",
        403: "A token for something else",
        413: "More than is taken at a time",
        415: "A content type that is not taken",
        422: "A request that is not as described",
        429: "Too much waits already; see Retry-After",
        503: "Not now; see Retry-After",
    }.items()
}


@dataclass(frozen=True)
class Service:
    """All that the interface stands on.

    Attributes:
        places: the files.
        jobs: the record of jobs.
        keyring: the tokens.
        audit: the log.
        backend: gives scores and heatmaps.
        limits: what is taken in.
        allowed: by clinic, locations below which its crop stores may lie.
        open_paths: paths that need no token beside the page itself.
        keep_days: for how long a job that has ended is kept; None for ever.
    """

    places: Places
    jobs: JobStore
    keyring: Keyring
    audit: Audit
    backend: Backend
    limits: Limits = field(default_factory=Limits)
    allowed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    open_paths: tuple[str, ...] = ()
    keep_days: float | None = None


class Current:
    """The served models, exchanged when ``models.json`` changes.

    New networks are loaded before a request can name them, so a swap keeps nobody waiting; if one
    of them cannot be used, everything stays as it was and the log says why.
    """

    def __init__(self, file: Path, backend: Backend) -> None:
        self._file, self._backend = file, backend
        self._seen = file.stat().st_mtime_ns
        self.models = catalogue.read(file)
        self.ready = False

    async def keep(self) -> None:
        """Loads the networks, then looks for others for ever."""
        while not self.ready:
            self.ready = await self._warm(self.models)
            await asyncio.sleep(0 if self.ready else CHECK_S)
        while True:
            await asyncio.sleep(CHECK_S)
            stamp = self._file.stat().st_mtime_ns
            if stamp == self._seen:
                continue
            self._seen = stamp
            try:
                models = await asyncio.to_thread(catalogue.read, self._file)
            except InputError as error:
                log.error("models stay as they are: %s", error)
                continue
            if await self._warm(models):
                self.models = models
                log.info("models now: %s", ", ".join(model.id for model in models))

    async def _warm(self, models: Sequence[Served]) -> bool:
        # Two colours: a blank crop is not scored.
        picture = encode_png(np.eye(8, dtype=np.uint8)[:, :, None].repeat(3, 2))
        try:
            for model in models:
                await self._backend.score(model, [picture])
        except Exception:  # whatever a network or a replica may raise: the old ones go on
            log.exception("a model cannot be loaded")
            return False
        return True


async def clinic_of(request: Request) -> str:
    """The clinic that a request is for.

    Raises:
        HTTPException: 403 for an operator's token.
    """
    caller: Token = request.state.caller
    if caller.clinic is None:
        raise HTTPException(403, "an operator's token opens no clinic's data; use a clinic's")
    return caller.clinic


Clinic = Annotated[str, Depends(clinic_of)]
Names = Annotated[
    list[str] | None,
    Query(description="Names or ids of models; all that are served by default", max_length=16),
]


def models_named(current: Current, names: Sequence[str] | None) -> list[Served]:
    """The models that a request names.

    Raises:
        HTTPException: 422 where one is not served.
    """
    found = catalogue.chosen(current.models, names)
    if found is None:
        known = ", ".join(model.meta.name for model in current.models)
        raise HTTPException(422, f"models: one is not served; there are: {known}")
    return found


def busy() -> HTTPException:
    """Too much waits for the networks."""
    return HTTPException(429, "too many requests wait; try again", {"retry-after": "1"})


def receiving_enough() -> HTTPException:
    """Too many archives come in."""
    return HTTPException(503, "too many uploads at once", {"retry-after": "2"})


def full(what: str) -> HTTPException:
    """A bounded queue has no room."""
    return HTTPException(429, what, {"retry-after": "30"})


class Room:
    """Places for requests of a kind, at a time in this process.

    Beyond them a request is refused at once, before its body is read: a queue would only make
    everyone wait.

    Args:
        places: how many.
        refusal: what is answered where there is none.
    """

    def __init__(self, places: int, refusal: Callable[[], HTTPException]) -> None:
        self._free, self.refusal = asyncio.Semaphore(places), refusal

    @property
    def full(self) -> bool:
        """Whether there is no place."""
        return self._free.locked()

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Takes a place.

        Raises:
            HTTPException: where there is none.
        """
        if self.full:
            raise self.refusal()
        async with self._free:
            yield


def no_job() -> HTTPException:
    """The clinic has no job of this id."""
    return HTTPException(404, "no such job; GET /v1/jobs lists yours")


ABSENT: Responses = {
    404: {"model": schemas.Problem, "description": "None of this clinic's"},
    409: {"model": schemas.Problem, "description": "Not in this state"},
    **{code: PROBLEMS[code] for code in (403, 503)},
}


def own(service: Service, request: Request, job_id: str, clinic: str) -> Job:
    """A clinic's own job; the audit log will name it.

    Raises:
        HTTPException: 404 where it has none of this id, whoever else may have.
    """
    found = service.jobs.get(job_id, clinic)
    if found is None:
        raise no_job()
    request.state.job = found.id
    return found
