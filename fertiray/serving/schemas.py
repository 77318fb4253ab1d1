"""The shapes of requests and answers, with the examples that OpenAPI shows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fertiray.serving.jobs import Job

VerdictOn = Literal["prevalence", "fraction"]


class Problem(BaseModel):
    """Why a request was not done, in a sentence that says what to do about it."""

    detail: str = Field(examples=["no such job; GET /v1/jobs lists yours"])


class Described(BaseModel):
    """A served model."""

    id: str = Field(description="NAME@VERSION", examples=["zona@4f1d0c2ab9e3"])
    name: str = Field(examples=["zona"])
    version: str = Field(examples=["4f1d0c2ab9e3"])
    task: str = Field(examples=["zona"])
    network: str = Field(examples=["vgg13"])
    classes: list[str] = Field(examples=[["unbound", "bound"]])
    positive: str = Field(examples=["bound"])
    input_size: int = Field(description="Side of the network's input in pixels", examples=[128])
    operating_threshold: float = Field(examples=[0.5])
    sensitivity: float = Field(examples=[0.93])
    specificity: float = Field(examples=[0.98])
    clinical_threshold: float | None = Field(examples=[0.049])
    jobs: bool = Field(description="Whether jobs may use it: its scores give a patient's result")


class Models(BaseModel):
    """The served models, the preferred one first."""

    models: list[Described]


class Images(BaseModel):
    """Images to score at once."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"images": ["iVBORw0KGgoAAAANSUhEUg..."]}]}
    )

    images: list[str] = Field(min_length=1, description="Encoded images (PNG, JPEG, ...) in base64")


class Scored(BaseModel):
    """What one model says of one image; null where it is not known."""

    index: int = Field(description="Place of the image in the request", examples=[0])
    name: str | None = Field(description="File name, of multipart images", examples=["head.png"])
    model: str = Field(examples=["zona@4f1d0c2ab9e3"])
    label: str | None = Field(examples=["bound"])
    probabilities: dict[str, float] | None = Field(examples=[{"unbound": 0.08, "bound": 0.92}])
    ood: float | None = Field(description="Above 1: unlike the training's crops", examples=[0.41])
    spread: float | None = Field(description="Deviation over test-time views", examples=[0.02])
    stage: str | None = Field(description="Where it failed: decode or score", examples=[None])
    error: str | None = Field(examples=[None])


class Scores(BaseModel):
    """One row an image and model: images in, rows out."""

    rows: list[Scored]


class Upload(BaseModel):
    """An archive on its way in."""

    id: str = Field(examples=["Zk3uJm2b0f8YTq1xXo9v5A"])
    bytes: int = Field(description="That are there: where the next part begins", examples=[0])
    part_bytes: int = Field(description="A part has at most so many", examples=[67108864])


class Source(BaseModel):
    """Crops that the service has, or can reach: one of the two."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"upload": "Zk3uJm2b0f8YTq1xXo9v5A"}, {"store": "s3://clinic/crops/2026"}]
        }
    )

    upload: str | None = Field(None, description="Id of an upload whose parts are all there")
    store: str | None = Field(
        None, min_length=1, max_length=1000, description="Location of a crop store; see operator"
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.upload is None) == (self.store is None):
            raise ValueError("name an upload or a store")
        return self


class JobState(BaseModel):
    """A job as its clinic sees it."""

    id: str = Field(examples=["0f8Yk3uJm2b7Tq1xXo9v5A"])
    label: str = Field(examples=["Monday's slides"])
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    stage: str = Field(description="What is being done", examples=["scoring"])
    models: list[str] = Field(examples=[["zona@4f1d0c2ab9e3"]])
    verdict_on: VerdictOn
    total: int | None = Field(description="Crops, once counted", examples=[20000])
    done: int = Field(description="Crops scored or rejected", examples=[8192])
    counts: dict[str, Any] = Field(
        description="What came out, once done",
        examples=[{"rows_in": 20000, "scored": 19980, "rejected": 20, "patients": 8}],
    )
    message: str = Field(description="Why it failed", examples=[""])
    cancelling: bool
    created: datetime
    finished: datetime | None
    expires: datetime | None = Field(
        description="When the job is deleted with all that was sent and found; null for never"
    )


class Jobs(BaseModel):
    """A clinic's jobs, the newest first."""

    jobs: list[JobState]


class Health(BaseModel):
    """Whether the service is alive, or ready."""

    status: Literal["ok", "starting"]


def shown(job: Job, keep_days: float | None) -> JobState:
    """A job's record as its clinic sees it; no places of this machine.

    Args:
        job: the record.
        keep_days: for how long a job that has ended is kept; None for ever.
    """
    finished = datetime.fromtimestamp(job.finished, UTC) if job.finished else None
    return JobState(
        id=job.id,
        label=job.label,
        state=job.state,
        stage=job.stage,
        models=[model["id"] for model in job.models],
        verdict_on=job.options["verdict_on"],
        total=job.total,
        done=job.done,
        counts=job.counts,
        message=job.message,
        cancelling=job.cancel and job.state == "running",
        created=datetime.fromtimestamp(job.created, UTC),
        finished=finished,
        expires=finished + timedelta(keep_days) if finished and keep_days else None,
    )
