"""The routes of uploads: an archive in parts, so that no request is large and none is lost."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import JSONResponse, Response

from fertiray.serving import receive, schemas
from fertiray.serving.jobs import new_id
from fertiray.serving.service import ABSENT, PROBLEMS, Clinic, Room, Service, full

ID = re.compile(r"[A-Za-z0-9_-]{22}")
BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


def upload_routes(service: Service, receiving: Room) -> APIRouter:
    """All routes below ``/v1/uploads``."""
    router = APIRouter(prefix="/v1/uploads", tags=["uploads"])

    @router.post(
        "",
        status_code=201,
        response_model=schemas.Upload,
        responses={code: PROBLEMS[code] for code in (403, 429)},
    )
    def begin(clinic: Clinic) -> Response:
        """Begins an upload; its parts follow one after the other."""
        upload_id = new_file(service, clinic).name
        shown = schemas.Upload(id=upload_id, bytes=0, part_bytes=service.limits.body_bytes)
        where = {"location": f"/v1/uploads/{upload_id}"}
        return JSONResponse(shown.model_dump(), 201, where)

    @router.patch(
        "/{upload_id}",
        openapi_extra=BODY,
        responses={**ABSENT, **{code: PROBLEMS[code] for code in (400, 413, 503)}},
    )
    async def part(
        request: Request,
        upload_id: str,
        clinic: Clinic,
        offset: Annotated[int, Query(ge=0, description="Bytes sent before this part")],
    ) -> schemas.Upload:
        """Sends the next part; a part that broke off has left nothing and is sent again."""
        file = find(service, clinic, upload_id)
        async with receiving.place():
            size = await receive.append(request, file, offset, service.limits)
        return schemas.Upload(id=upload_id, bytes=size, part_bytes=service.limits.body_bytes)

    @router.get("/{upload_id}", responses=ABSENT)
    def upload(upload_id: str, clinic: Clinic) -> schemas.Upload:
        """How much of an upload is there: where the next part begins."""
        size = find(service, clinic, upload_id).stat().st_size
        return schemas.Upload(id=upload_id, bytes=size, part_bytes=service.limits.body_bytes)

    @router.delete("/{upload_id}", status_code=204, responses=ABSENT)
    def forget(upload_id: str, clinic: Clinic) -> None:
        """Deletes an upload that became no job."""
        find(service, clinic, upload_id).unlink(missing_ok=True)

    return router


def new_file(service: Service, clinic: str) -> Path:
    """An empty file for a new upload; its name is the upload's id.

    Raises:
        HTTPException: 429 where the clinic has too many.
    """
    folder = service.places.uploads(clinic)
    folder.mkdir(mode=0o700, exist_ok=True)
    if sum(1 for _ in folder.iterdir()) >= service.limits.uploads:
        raise full("there are too many uploads; wait for a job, or delete one")
    file = folder / new_id()
    file.touch(0o600, exist_ok=False)
    return file


def find(service: Service, clinic: str, upload_id: str) -> Path:
    """The file of a clinic's own upload that has not become a job.

    Raises:
        HTTPException: 404 where it has none of this id, whoever else may have.
    """
    file = service.places.upload(clinic, upload_id)
    if not ID.fullmatch(upload_id) or not file.is_file() or service.jobs.get(upload_id, clinic):
        raise no_upload()
    return file


def no_upload() -> HTTPException:
    """The clinic has no upload of this id."""
    return HTTPException(404, "no such upload; POST /v1/uploads begins one")
