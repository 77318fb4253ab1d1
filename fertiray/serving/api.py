"""The HTTP interface as a plain ASGI application: no Ray here, and none needed to test it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from pathlib import Path

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp

import fertiray
from fertiray.errors import StorageError
from fertiray.serving import measures, receive, schemas
from fertiray.serving.door import Door
from fertiray.serving.interactive import BusyError
from fertiray.serving.jobs_api import job_routes
from fertiray.serving.results_api import result_routes
from fertiray.serving.service import (
    PROBLEMS,
    Clinic,
    Current,
    Names,
    Room,
    Service,
    busy,
    models_named,
    receiving_enough,
)
from fertiray.serving.uploads_api import upload_routes

WEB = Path(str(files("fertiray") / "web" / "clinic"))

log = logging.getLogger(__name__)

ABOUT = """
Scores sperm-head crops with published networks. A few images are answered at once
(`/v1/score`); tens of thousands make a job (`/v1/jobs`), sent in parts (`/v1/uploads`). Every
request needs
`Authorization: Bearer TOKEN`; a token sees its own clinic's jobs and no others.
Answers 429 and 503 carry `Retry-After`. Research software; not a medical device.
"""


def create_app(service: Service) -> ASGIApp:
    """The whole interface, door included.

    Args:
        service: what it stands on.

    Raises:
        InputError: a served checkpoint is unusable.
    """
    current = Current(service.places.models, service.backend)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        keeper = asyncio.create_task(current.keep())
        yield
        keeper.cancel()
        with suppress(asyncio.CancelledError):
            await keeper

    app = FastAPI(
        title="FertiRay",
        description=ABOUT,
        version=fertiray.__version__,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        dependencies=[Depends(HTTPBearer(auto_error=False, description="`fertiray token add`"))],
        responses={code: PROBLEMS[code] for code in (401, 422)},
    )
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(StorageError, _out)
    receiving = Room(service.limits.receiving, receiving_enough)
    interactive = Room(service.limits.requests, busy)
    app.include_router(upload_routes(service, receiving))
    app.include_router(job_routes(service, current, receiving))
    app.include_router(result_routes(service, interactive))
    _routes(app, service, current, interactive)
    app.mount("/static", StaticFiles(directory=WEB), name="static")
    return Door(
        app,
        service.keyring,
        service.audit,
        service.limits,
        service.open_paths,
        {"/v1/score": interactive},
    )


def _routes(app: FastAPI, service: Service, current: Current, interactive: Room) -> None:
    image = {"type": "string", "format": "binary"}
    parts = {"type": "object", "properties": {"images": {"type": "array", "items": image}}}
    body = {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": {**parts, "required": ["images"]}},
                "application/json": {"schema": schemas.Images.model_json_schema()},
            },
        }
    }

    @app.post(
        "/v1/score",
        tags=["scores"],
        openapi_extra=body,
        responses={code: PROBLEMS[code] for code in (400, 403, 413, 415, 429, 503)},
    )
    async def score(request: Request, clinic: Clinic, models: Names = None) -> schemas.Scores:
        """Scores a few images at once: one row an image and model, in the order sent."""
        chosen = models_named(current, models)
        async with interactive.place():
            found = await receive.images(request, service.limits)
            crops = [data for _, data in found]
            try:
                # One after the other: together, a request would need a place in the queue for each
                # model, and a service that lets few wait would refuse it for ever.
                answers = [await service.backend.score(model, crops) for model in chosen]
            except BusyError:
                raise busy() from None
        rows = [
            schemas.Scored(index=index, name=name, model=model.id, **answer[index])
            for index, (name, _) in enumerate(found)
            for model, answer in zip(chosen, answers, strict=True)
        ]
        return schemas.Scores(rows=rows)

    @app.get("/v1/models", tags=["models"])
    async def models() -> schemas.Models:
        """The served models and their versions, the preferred one first."""
        described = [schemas.Described(**model.described()) for model in current.models]
        return schemas.Models(models=described)

    @app.get("/healthz", tags=["service"])
    async def healthz() -> schemas.Health:
        """Whether the service is alive."""
        return schemas.Health(status="ok")

    @app.get("/readyz", tags=["service"], responses={503: {"model": schemas.Health}})
    async def readyz(response: Response) -> schemas.Health:
        """Whether the networks are loaded."""
        response.status_code = 200 if current.ready else 503
        return schemas.Health(status="ok" if current.ready else "starting")

    @app.get(
        "/metrics",
        tags=["service"],
        responses={403: PROBLEMS[403], 200: {"content": {"text/plain": {}}}},
    )
    def metrics(request: Request) -> PlainTextResponse:
        """Jobs and crops by state, for Prometheus; needs an operator's token."""
        caller = request.state.caller
        if caller is not None and caller.clinic is not None:
            raise HTTPException(403, "metrics are of all clinics; use an operator's token")
        return PlainTextResponse(measures.text(service.jobs))

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(WEB / "index.html")

    @app.get("/static/report.css", include_in_schema=False)
    async def style() -> FileResponse:
        return FileResponse(WEB.parent / "report.css")


def _out(_: Request, error: Exception) -> Response:
    """The storage is out: nothing is wrong with the request. What it said is the operator's."""
    log.warning("storage: %s", error)
    detail = "the storage does not answer; try later"
    return JSONResponse({"detail": detail}, 503, {"retry-after": "30"})


def _invalid(_: Request, error: Exception) -> Response:
    """What is wrong with a request, in one line, without repeating what was sent."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return JSONResponse({"detail": receive.plain(f"{where}: {first['msg']}")}, 422)
