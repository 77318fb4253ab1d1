"""Metrics of Ray's processes, through ``ray.util.metrics``.

Ray keeps them in an agent on each node, which Prometheus scrapes: counters and histograms stay
there when their process ends, gauges for twenty seconds. A process hands over its last values as it
leaves Ray. Ray puts ``ray_`` before the names and ``WorkerId`` among the labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.util import metrics

from fertiray import telemetry
from fertiray.telemetry import PREFIX, Labels, Metric


class RaySink:
    """A :class:`fertiray.telemetry.Sink` in a driver, an actor or a task."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def count(self, metric: Metric, value: float, labels: Labels) -> None:
        """See ``Sink``."""
        self._of(metric).inc(value, labels)

    def gauge(self, metric: Metric, value: float, labels: Labels) -> None:
        """See ``Sink``."""
        self._of(metric).set(value, labels)

    def observe(self, metric: Metric, value: float, labels: Labels) -> None:
        """See ``Sink``."""
        self._of(metric).observe(value, labels)

    def _of(self, metric: Metric) -> Any:
        if metric.name not in self._made:
            name, keys = PREFIX + metric.name, tuple(metric.labels)
            if metric.kind == "histogram":
                made = metrics.Histogram(name, metric.help, [*metric.buckets], keys)
            else:
                made = {"counter": metrics.Counter, "gauge": metrics.Gauge}[metric.kind](
                    name, metric.help, keys
                )
            self._made[metric.name] = made
        return self._made[metric.name]


@contextmanager
def exported() -> Iterator[None]:
    """Sends a driver's metrics through Ray while it is connected.

    Where they go to a file already (see :mod:`fertiray.textfile`), that is where they stay: twice
    exported would be twice counted.
    """
    if telemetry.is_attached():
        yield
        return
    with telemetry.attached(RaySink()):
        yield


def export_worker() -> None:
    """Sends the metrics of this actor or task through Ray, for as long as its process lives."""
    if not telemetry.is_attached():
        telemetry.attach(RaySink())
