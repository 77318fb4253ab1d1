"""The routes of a finished job's results: tables, patients, crops and heatmaps."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from fertiray import storage
from fertiray.data.images import CROP, ImageError, Pixels, decode, encode_png
from fertiray.errors import InputError, StorageError
from fertiray.scoring.contents import rejects_by_patient
from fertiray.scoring.verdicts import ModelInfo
from fertiray.serving import catalogue, fragments, results, schemas
from fertiray.serving.interactive import BusyError
from fertiray.serving.jobs import Job
from fertiray.serving.service import ABSENT, PROBLEMS, Clinic, Responses, Room, Service, busy, own

FILE: Responses = {
    200: {"content": {kind: {} for kind in results.TYPES.values()}, "description": "A table"}
}
PNG: Responses = {200: {"content": {"image/png": {}}, "description": "A PNG"}}


def result_routes(service: Service, interactive: Room) -> APIRouter:
    """The routes below ``/v1/jobs/{job_id}`` that need a job that is done."""
    router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["results"])

    @router.get(
        "/result",
        responses={**ABSENT, **FILE},
    )
    def result(
        request: Request,
        job_id: str,
        clinic: Clinic,
        format: results.Format = "json",
        table: results.Table = "patients",
    ) -> Response:
        """A finished job's table; `html` is the report with all of them."""
        found = _done(service, request, job_id, clinic)
        run = service.places.run(found)
        if format == "json":
            state = schemas.shown(found, service.keep_days).model_dump(mode="json")
            return JSONResponse({"job": state, "table": table, "rows": results.rows(run, table)})
        name = "report.html" if format == "html" else f"{table}.{format}"
        return Response(
            results.content(run, table, format),
            media_type=results.TYPES[format],
            headers={"content-disposition": f'attachment; filename="{name}"'},
        )

    @router.get("/patients", responses=ABSENT)
    def patients(request: Request, job_id: str, clinic: Clinic) -> dict[str, Any]:
        """Every patient's number and results; the number is the address of the patient's page."""
        found = _done(service, request, job_id, clinic)
        return {"patients": results.cohort(service.places.run(found), _infos(service, found))}

    @router.get("/patients/{number}", responses=ABSENT)
    def patient(request: Request, job_id: str, number: int, clinic: Clinic) -> dict[str, Any]:
        """One patient: results in numbers and sentences, class mix, slides, rejects, pictures."""
        found = _done(service, request, job_id, clinic)
        return _patient(service, found, number)[0]

    @router.get("/view", include_in_schema=False)
    def cohort_view(request: Request, job_id: str, clinic: Clinic) -> HTMLResponse:
        found = _done(service, request, job_id, clinic)
        run, infos = service.places.run(found), _infos(service, found)
        rejects = rejects_by_patient(run, service.places.store(found))
        return HTMLResponse(fragments.cohort(job_id, results.cohort(run, infos), rejects, infos))

    @router.get("/patients/{number}/view", include_in_schema=False)
    def patient_view(request: Request, job_id: str, number: int, clinic: Clinic) -> HTMLResponse:
        found = _done(service, request, job_id, clinic)
        shown, count = _patient(service, found, number)
        return HTMLResponse(fragments.patient(job_id, shown, count, _infos(service, found)))

    @router.get("/crops/{crop_id}/image", responses={**ABSENT, **PNG})
    def image(request: Request, job_id: str, crop_id: str, clinic: Clinic) -> Response:
        """A crop as a PNG, whatever format it was sent in."""
        found = _done(service, request, job_id, clinic)
        data = _crop(service, found, crop_id)
        return Response(encode_png(_decoded(data)), media_type="image/png")

    @router.get(
        "/crops/{crop_id}/heatmap",
        responses={**ABSENT, **PNG, 429: PROBLEMS[429]},
    )
    async def heatmap(
        request: Request,
        job_id: str,
        crop_id: str,
        clinic: Clinic,
        model: Annotated[str, Query(description="Name of one of the job's models")],
        method: Literal["gradcam", "gradcam++", "saliency"] = "gradcam",
    ) -> Response:
        """What the network looked at: a crop with the heat over it, as a PNG."""
        found = await asyncio.to_thread(_done, service, request, job_id, clinic)
        try:
            async with interactive.place():
                data = await asyncio.to_thread(_crop, service, found, crop_id)
                _decoded(data)
                picture = await service.backend.explain(_model(found, model), data, method)
        except BusyError:
            raise busy() from None
        except StorageError:
            raise
        except InputError as error:
            raise HTTPException(409, "the job's network is not here any more") from error
        return Response(picture, media_type="image/png")

    return router


def _done(service: Service, request: Request, job_id: str, clinic: str) -> Job:
    found = own(service, request, job_id, clinic)
    if found.state != "done":
        raise HTTPException(409, f"the job is {found.state}; only one that is done has results")
    return found


def _infos(service: Service, job: Job) -> dict[str, ModelInfo]:
    """The job's models as they were when it was scored."""
    record = json.loads(storage.read_bytes(storage.join(service.places.run(job), "run.json")))
    return {entry["name"]: ModelInfo.from_meta(entry) for entry in record["models"]}


def _patient(service: Service, job: Job, number: int) -> tuple[results.Row, int]:
    """What is shown of a patient, and how many there are."""
    count = len(results.names(service.places.run(job)))
    if not 0 <= number < count:
        raise HTTPException(404, "no such patient; GET .../patients lists them")
    return results.patient(service.places, job, number, _infos(service, job)), count


def _model(job: Job, name: str) -> catalogue.Served:
    """One of a job's models, as it was when the job was accepted."""
    for entry in job.models:
        if name in (entry["id"], entry["id"].rpartition("@")[0]):
            found = catalogue.served(entry["folder"])
            if found.id != entry["id"]:
                raise InputError(f"{entry['id']}: its folder holds another checkpoint by now")
            return found
    raise HTTPException(422, "model: not one of this job's")


def _crop(service: Service, job: Job, crop_id: str) -> bytes:
    try:
        data = results.crop_image(service.places.store(job), crop_id)
    except StorageError:
        raise
    except InputError as error:
        raise HTTPException(409, "the job's crops are not here any more") from error
    if data is None:
        raise HTTPException(404, "no such crop in this job")
    return data


def _decoded(data: bytes) -> Pixels:
    try:
        return decode(data, limits=CROP)
    except ImageError as error:
        raise HTTPException(409, f"the crop is no usable image ({error.reason})") from error
