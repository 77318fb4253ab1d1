"""The routes of jobs: accept, watch, stop, delete."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError

from fertiray import config
from fertiray.errors import InputError
from fertiray.serving import archives, receive, schemas
from fertiray.serving.jobs import Job, KeyReusedError, QueueFullError, new_id
from fertiray.serving.places import sync
from fertiray.serving.service import (
    ABSENT,
    PROBLEMS,
    Clinic,
    Current,
    Names,
    Room,
    Service,
    full,
    models_named,
    no_job,
    own,
)
from fertiray.serving.uploads_api import find, new_file, no_upload

FULL = "too many jobs wait; send this one later"
ARCHIVES = (
    *("application/zip", "application/x-tar", "application/gzip"),
    *("application/vnd.apache.parquet", "application/octet-stream"),
)
_BINARY = {"schema": {"type": "string", "format": "binary"}}
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": schemas.Source.model_json_schema()},
            **dict.fromkeys(ARCHIVES, _BINARY),
        },
    }
}


@dataclass(frozen=True)
class _Content:
    """What a new job is made of.

    Attributes:
        id: the upload's, and so the job's.
        source: ``upload``, or a crop store's location.
        digest: tells it from other content.
    """

    id: str
    source: str
    digest: str


def job_routes(service: Service, current: Current, receiving: Room) -> APIRouter:
    """All routes below ``/v1/jobs``."""
    router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

    @router.post(
        "",
        status_code=202,
        openapi_extra=BODY,
        response_model=schemas.JobState,
        responses={
            404: ABSENT[404],
            **{code: PROBLEMS[code] for code in (400, 403, 413, 415, 429, 503)},
        },
    )
    async def submit(
        request: Request,
        clinic: Clinic,
        models: Names = None,
        verdict_on: Annotated[
            schemas.VerdictOn, Query(description="What the verdict follows")
        ] = "prevalence",
        label: Annotated[
            str, Query(max_length=100, description="Your name for it; the report's title")
        ] = "cohort",
        strip: Annotated[
            int, Query(ge=0, le=4, description="Leading folders of the archive to leave out")
        ] = 0,
        idempotency_key: Annotated[
            str | None,
            Header(
                min_length=1,
                max_length=200,
                description="The same key and request again give the same job",
            ),
        ] = None,
    ) -> Response:
        """Makes a job of many crops: of an upload, a crop store, or a small archive as the body.

        An archive (zip, tar, tar.gz) holds `patient/slide/image`; a Parquet file the columns
        `patient_id` and `image`. What is larger than one request goes through `/v1/uploads`.
        The answer comes when everything is safely on disk. An upload becomes one job, however
        often it is named.
        """
        chosen = [model for model in models_named(current, models) if model.patients]
        if not chosen:
            raise HTTPException(422, "models: none of them gives a patient's result")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        asked = _source(await request.body()) if kind == "application/json" else None
        if asked and asked.upload and (known := service.jobs.get(asked.upload, clinic)):
            return _accepted(service, request, known)
        try:
            service.jobs.check_room(clinic, service.limits)
        except QueueFullError:
            raise full(FULL) from None
        if asked and asked.store:
            content = _Content(new_id(), *_store(service, clinic, asked.store))
        elif asked and asked.upload:
            content = await _upload(service, clinic, asked.upload)
        elif kind in ARCHIVES:
            async with receiving.place():
                content = await _body(service, clinic, request)
        else:
            raise HTTPException(415, f"send one of: application/json, {', '.join(ARCHIVES)}")
        options = {"verdict_on": verdict_on, "strip": strip}
        try:
            job = service.jobs.accept(
                content.id,
                clinic,
                source=content.source,
                label=label,
                models=[{"id": model.id, "folder": model.folder} for model in chosen],
                options=options,
                digest=config.digest([content.digest, options, label, sorted(models or [])]),
                key=idempotency_key,
                limits=service.limits,
            )
        except KeyReusedError:
            service.places.clear(clinic, content.id)
            said = "idempotency-key: used before with another request; take a new one"
            raise HTTPException(422, said) from None
        except QueueFullError:
            if not (asked and asked.upload):  # which is still there for the next try
                service.places.clear(clinic, content.id)
            raise full(FULL) from None
        if job.id != content.id:
            service.places.clear(clinic, content.id)
        return _accepted(service, request, job)

    @router.get("", responses={403: PROBLEMS[403]})
    def jobs(clinic: Clinic, limit: Annotated[int, Query(ge=1, le=500)] = 50) -> schemas.Jobs:
        """This clinic's jobs, the newest first."""
        found = service.jobs.of_clinic(clinic, limit)
        return schemas.Jobs(jobs=[schemas.shown(job, service.keep_days) for job in found])

    @router.get("/{job_id}", responses={404: ABSENT[404], 403: PROBLEMS[403]})
    def job(request: Request, job_id: str, clinic: Clinic) -> schemas.JobState:
        """How far a job is."""
        return schemas.shown(own(service, request, job_id, clinic), service.keep_days)

    @router.post("/{job_id}/cancel", responses={404: ABSENT[404], 403: PROBLEMS[403]})
    def cancel(request: Request, job_id: str, clinic: Clinic) -> schemas.JobState:
        """Stops a job; one that has ended stays as it is."""
        before = own(service, request, job_id, clinic)
        found = service.jobs.cancel(job_id, clinic)
        if found is None:
            raise no_job()
        if found.state == "cancelled" and before.state != "cancelled":
            service.places.clear(clinic, job_id)
        return schemas.shown(found, service.keep_days)

    @router.delete("/{job_id}", status_code=204, responses=ABSENT)
    def delete(request: Request, job_id: str, clinic: Clinic) -> None:
        """Deletes a job that has ended, with everything that was sent and found."""
        own(service, request, job_id, clinic)
        if not service.jobs.forget(job_id, clinic):
            raise HTTPException(409, "the job is not at its end; cancel it first")
        service.places.clear(clinic, job_id)

    return router


def _accepted(service: Service, request: Request, job: Job) -> Response:
    request.state.job = job.id
    where = {"location": f"/v1/jobs/{job.id}"}
    state = schemas.shown(job, service.keep_days).model_dump(mode="json")
    return JSONResponse(state, 202, where)


def _source(body: bytes) -> schemas.Source:
    try:
        return schemas.Source.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise HTTPException(422, receive.plain(f"{where}: {first['msg']}")) from error


def _store(service: Service, clinic: str, asked: str) -> tuple[str, str]:
    location = receive.allowed(asked, service.allowed.get(clinic, ()))
    if location is None:
        raise HTTPException(403, "store: not a place that this clinic may use; ask the operator")
    return location, location


async def _upload(service: Service, clinic: str, upload_id: str) -> _Content:
    """An upload whose parts are there, put on disk for good."""
    file = find(service, clinic, upload_id)
    try:
        os.utime(file)  # not taken for one that was given up
        archives.kind_of(file)
        digest = await asyncio.to_thread(receive.digest, file)
        await asyncio.to_thread(sync, file)
    except InputError as error:
        raise HTTPException(415, str(error)) from error
    except FileNotFoundError:  # the same request, sent twice, has become a job meanwhile
        raise no_upload() from None
    return _Content(upload_id, "upload", digest)


async def _body(service: Service, clinic: str, request: Request) -> _Content:
    """An upload in one part: the request's body."""
    file = new_file(service, clinic)
    try:
        await receive.append(request, file, 0, service.limits)
        return await _upload(service, clinic, file.name)
    except BaseException:
        file.unlink()
        raise
