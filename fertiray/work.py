"""Metrics of work while it is done: jobs, stages, steps, requests, and how busy the machine is.

See :mod:`fertiray.telemetry` for where they go; where they go nowhere, this costs next to nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import psutil
import torch

from fertiray.errors import InputError
from fertiray.telemetry import OTHER, count, gauge, is_attached, observe

T = TypeVar("T")

BUSY_S = 1.0  # between two looks at how busy the machine is


@dataclass
class _State:
    """What this process keeps: the kinds of its jobs, and when it last looked how busy it is."""

    running: list[str] = field(default_factory=list)
    looked: float = 0.0


_state = _State()


class Stages:
    """Times the stages of a piece of work and tells each; see ``stage_seconds``.

    Attributes:
        seconds: by stage, all its times together.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Times what is done within."""
        began = time.perf_counter()
        yield
        self.took(stage, time.perf_counter() - began)

    def each(self, stage: str, pieces: Iterable[T]) -> Iterator[T]:
        """The pieces, with the time that each takes to come."""
        began = time.perf_counter()
        for piece in pieces:
            self.took(stage, time.perf_counter() - began)
            yield piece
            began = time.perf_counter()

    def took(self, stage: str, seconds: float) -> None:
        """Notes a time that was measured elsewhere."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        observe("stage_seconds", seconds, stage=stage)


@contextmanager
def job(kind: str, *, part: bool = False) -> Iterator[None]:
    """A job of this process, from its start to its outcome.

    Args:
        kind: one of :data:`fertiray.telemetry.KINDS`.
        part: it is a worker's part of a job whose outcome another process tells.
    """
    now = time.time()
    if not part:
        gauge("job_started_timestamp_seconds", now, kind=kind)
    _state.running.append(kind)
    progress(kind)
    outcome = "done"
    try:
        yield
    except BaseException as error:
        outcome = "failed" if isinstance(error, Exception) else "interrupted"
        if isinstance(error, InputError):
            outcome = "refused"
        raise
    finally:
        _state.running.remove(kind)
        if kind not in _state.running:
            gauge("job_started_timestamp_seconds", 0.0, kind=kind)
            gauge("job_progress_timestamp_seconds", 0.0, kind=kind)
        if not part:
            count("jobs_ended_total", kind=kind, outcome=outcome)


def progress(kind: str) -> None:
    """A job of this process got something done; also tells how busy the machine is."""
    if kind in _state.running:
        gauge("job_progress_timestamp_seconds", time.time(), kind=kind)
    busy()


def busy() -> None:
    """Tells how busy the machine is, unless it has just been told."""
    now, before = time.monotonic(), _state.looked
    if not is_attached() or now - before < BUSY_S:
        return
    _state.looked = now
    if before == 0.0:  # what is told is about the time since the look before
        psutil.cpu_percent()
        return
    gauge("busy_ratio", psutil.cpu_percent() / 100, resource="cpu")
    if (share := _gpu_busy()) is not None:
        gauge("busy_ratio", share, resource="gpu")


def _gpu_busy() -> float | None:
    """Share of the last second in which this process's GPU worked; None where it is not told."""
    if not torch.cuda.is_available():
        return None
    try:
        return torch.cuda.utilization() / 100
    except ModuleNotFoundError:  # it takes NVIDIA's management library
        return None


def training_step(loss: float, images: int, seconds: float, *, first: bool) -> None:
    """One step of a training.

    Args:
        loss: of the whole batch.
        images: that this worker learned from.
        seconds: that it took.
        first: whether this is the first of its workers, which speaks for all.
    """
    if not is_attached():
        return
    observe("training_step_seconds", seconds)
    count("training_images_total", images)
    if first:
        gauge("training_loss", loss, part="training")
        progress("train")


def request(route: str | None, status: int, seconds: float) -> None:
    """One answered HTTP request.

    Args:
        route: the path's pattern, such as ``/v1/jobs/{id}``; None where no route matched.
        status: of the answer.
        seconds: that it took.
    """
    observe("request_seconds", seconds, route=route or OTHER, status=f"{status // 100}xx")
