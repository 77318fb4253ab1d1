"""Metrics: the name, unit, help, labels and buckets of every one, once; and how code tells them.

Code calls :func:`count`, :func:`gauge` and :func:`observe` with a name of :data:`METRICS`. Where
the numbers go is the sink's business: a text file for Prometheus (:mod:`fertiray.textfile`), or
Ray's own export (:mod:`fertiray.on_ray.telemetry`). Without a sink a call returns at once.

Names and units follow Prometheus' conventions; exported names begin with ``fertiray_``, those that
Ray exports with ``ray_fertiray_``. A label has few values: those listed here, or the first so many
that come, and ``other`` for all the rest. No label, name or value says who a patient is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol

PREFIX = "fertiray_"
OTHER = "other"

MODELS = 16  # different checkpoints that are told apart
KINDS = ("score", "serve", "train", "tune")

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
# The clinical thresholds, 0.04 and 0.049, are bounds, so that the shares beside them are exact.
SHARES = (0.01, 0.02, 0.03, 0.04, 0.049, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: without ``fertiray_``.
        kind: as Prometheus has them.
        unit: of the value; the name ends with it where it is not a plain number.
        help: one sentence.
        labels: by name the values that are allowed, or how many different ones are told apart.
        buckets: upper bounds of a histogram.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    help: str
    labels: Mapping[str, tuple[str, ...] | int] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()


_LIST = (
    # Scoring
    Metric("crops_scored_total", "counter", "crops", "Crops that have scores.", {"kind": KINDS}),
    Metric(
        "crops_rejected_total",
        "counter",
        "crops",
        "Crops without scores, by the stage that failed.",
        {"kind": KINDS, "stage": ("decode", "score")},
    ),
    Metric(
        "batch_seconds",
        "histogram",
        "seconds",
        "Time from a batch of crops that was read to its scores.",
        buckets=SECONDS,
    ),
    Metric(
        "stage_seconds",
        "histogram",
        "seconds",
        "Time of one stage for one batch; writing is for a whole shard.",
        {"stage": ("read", "decode", "network", "write")},
        SECONDS,
    ),
    Metric("queue_crops", "gauge", "crops", "Crops that wait to be scored.", {"kind": KINDS}),
    Metric(
        "engine_info",
        "gauge",
        "",
        "1 for each process that executes networks in this way.",
        {
            "engine": (
                *("auto", "eager", "bf16", "compile"),
                *("openvino-bf16", "openvino-mixed", "openvino-fp32"),
            ),
            "device": ("cpu", "cuda"),
        },
    ),
    Metric(
        "busy_ratio",
        "gauge",
        "ratio",
        "Share of the machine's processors, or of its GPU's time, in use.",
        {"resource": ("cpu", "gpu")},
    ),
    # Jobs
    Metric(
        "job_started_timestamp_seconds",
        "gauge",
        "seconds",
        "When a job that runs was started, since 1970; 0 when it is over.",
        {"kind": KINDS},
    ),
    Metric(
        "job_progress_timestamp_seconds",
        "gauge",
        "seconds",
        "When a job that runs last got a piece done, since 1970; 0 when it is over.",
        {"kind": KINDS},
    ),
    Metric(
        "jobs_ended_total",
        "counter",
        "jobs",
        "Jobs that have ended.",
        {"kind": KINDS, "outcome": ("done", "refused", "failed", "interrupted")},
    ),
    # Training and tuning
    Metric(
        "training_loss",
        "gauge",
        "",
        "Loss of the last step, or of the validation part after the last epoch.",
        {"part": ("training", "validation")},
    ),
    Metric("training_epoch", "gauge", "epochs", "The last epoch that is finished."),
    Metric(
        "training_step_seconds",
        "histogram",
        "seconds",
        "Time of one step of the optimiser in one worker.",
        buckets=SECONDS,
    ),
    Metric("training_images_total", "counter", "images", "Images that steps have learned from."),
    Metric(
        "trials", "gauge", "trials", "Trials of a study now.", {"state": ("pending", "running")}
    ),
    Metric(
        "trials_ended_total",
        "counter",
        "trials",
        "Trials that have ended; a trial that crashes and is tried again has not.",
        {"outcome": ("done", "failed")},
    ),
    # The service
    Metric(
        "request_seconds",
        "histogram",
        "seconds",
        "Time to answer an HTTP request, by route and class of the status.",
        {"route": 32, "status": ("1xx", "2xx", "3xx", "4xx", "5xx")},
        SECONDS,
    ),
    Metric(
        "service_jobs",
        "gauge",
        "jobs",
        "Jobs that the service has on record.",
        {"state": ("queued", "running", "done", "failed", "cancelled")},
    ),
    Metric(
        "service_crops",
        "gauge",
        "crops",
        "Crops scored or rejected in jobs that the service has on record.",
        {"state": ("queued", "running", "done", "failed", "cancelled")},
    ),
    Metric(
        "service_job_age_seconds",
        "gauge",
        "seconds",
        "Age of the oldest job of the service in this state; 0 where there is none.",
        {"state": ("queued", "running")},
    ),
    # Clinic quality, counted when a run's tables are written
    Metric(
        "patients_total",
        "counter",
        "patients",
        "Patients with a result, by verdict.",
        {"model": MODELS, "verdict": ("above", "below", "indeterminate", "no result")},
    ),
    Metric(
        "patient_positive_ratio",
        "histogram",
        "ratio",
        "Patients by their share of positive crops.",
        {"model": MODELS},
        SHARES,
    ),
    Metric(
        "patient_unlike_ratio",
        "histogram",
        "ratio",
        "Patients by their share of crops unlike those of the training.",
        {"model": MODELS},
        SHARES,
    ),
    Metric(
        "crops_examined_total",
        "counter",
        "crops",
        "Scored crops that were compared with those of the training.",
        {"model": MODELS},
    ),
    Metric(
        "crops_unlike_total",
        "counter",
        "crops",
        "Scored crops unlike those of the training.",
        {"model": MODELS},
    ),
    Metric(
        "score_drift_ratio",
        "gauge",
        "ratio",
        "Share of the last run's scores that no mixture of the validation's classes explains.",
        {"model": MODELS},
    ),
)

METRICS = {metric.name: metric for metric in _LIST}

Labels = dict[str, str]


class Sink(Protocol):
    """Takes the numbers of this process somewhere; called from any thread."""

    def count(self, metric: Metric, value: float, labels: Labels) -> None:
        """Adds to a counter; the value is above 0."""

    def gauge(self, metric: Metric, value: float, labels: Labels) -> None:
        """Sets a gauge."""

    def observe(self, metric: Metric, value: float, labels: Labels) -> None:
        """Puts a value into a histogram."""


@dataclass
class _State:
    """What this process keeps: its sink, and label values that were seen."""

    sink: Sink | None = None
    seen: dict[tuple[str, str], set[str]] = field(default_factory=dict)


_state = _State()


def is_attached() -> bool:
    """Whether the numbers of this process go anywhere."""
    return _state.sink is not None


def attach(sink: Sink | None) -> None:
    """Sends the numbers of this process to a sink from now on; None to nowhere."""
    _state.sink = sink


@contextmanager
def attached(sink: Sink | None) -> Iterator[None]:
    """The same for a while; afterwards they go where they went before."""
    before = _state.sink
    attach(sink)
    try:
        yield
    finally:
        attach(before)


def count(name: str, value: float = 1.0, **labels: str) -> None:
    """Adds to a counter.

    Args:
        name: one of :data:`METRICS`.
        value: 0 and up.
        labels: exactly the metric's.
    """
    if _state.sink is not None and value > 0:
        metric = METRICS[name]
        _state.sink.count(metric, value, bounded(metric, labels))


def gauge(name: str, value: float, **labels: str) -> None:
    """Sets a gauge; see :func:`count`."""
    if _state.sink is not None:
        metric = METRICS[name]
        _state.sink.gauge(metric, value, bounded(metric, labels))


def observe(name: str, value: float, **labels: str) -> None:
    """Puts a value into a histogram; see :func:`count`."""
    if _state.sink is not None:
        metric = METRICS[name]
        _state.sink.observe(metric, value, bounded(metric, labels))


def bounded(metric: Metric, labels: Mapping[str, str]) -> Labels:
    """The labels with every value that is not told apart as ``other``.

    Raises:
        ValueError: the labels are not the metric's.
    """
    if labels.keys() != metric.labels.keys():
        raise ValueError(f"{metric.name} has the labels {[*metric.labels]}, not {[*labels]}")
    return {key: _bounded(metric, key, value) for key, value in labels.items()}


def _bounded(metric: Metric, key: str, value: str) -> str:
    allowed = metric.labels[key]
    if isinstance(allowed, tuple):
        return value if value in allowed else OTHER
    seen = _state.seen.setdefault((metric.name, key), set())
    if len(seen) < allowed:
        seen.add(value)
    return value if value in seen else OTHER
