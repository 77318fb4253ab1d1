"""Metrics of processes outside Ray, and of finished jobs: one text file that Prometheus reads.

With ``FERTIRAY_METRICS=FOLDER`` every command adds its numbers to ``FOLDER/fertiray.prom``, as node
exporter's textfile collector takes them and as ``fertiray dashboard`` serves them at ``/metrics``.
Counters and histograms go on where the commands before stopped, so their rates are right however
many processes write; of a gauge the last value stays.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

from fertiray import storage, telemetry
from fertiray.errors import InputError
from fertiray.telemetry import METRICS, PREFIX, Labels, Metric

FOLDER = "FERTIRAY_METRICS"
FILE = "fertiray.prom"
EVERY_S = 5.0

Key = tuple[str, tuple[tuple[str, str], ...]]  # a sample's name and labels


@contextmanager
def exported() -> Iterator[None]:
    """Writes this process's metrics where ``FERTIRAY_METRICS`` says; else does nothing.

    Raises:
        InputError: the folder cannot be written to.
    """
    folder = os.environ.get(FOLDER)
    if not folder:
        yield
        return
    sink = Textfile(Path(folder))
    sink.write()
    with telemetry.attached(sink):
        try:
            yield
        finally:
            sink.write()


class Textfile:
    """A :class:`fertiray.telemetry.Sink` that adds to a file which several processes share.

    Args:
        folder: made where it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / FILE
        self._added: dict[Key, float] = {}
        self._set: dict[Key, float] = {}
        self._lock = threading.Lock()
        self._written = time.monotonic()

    def count(self, metric: Metric, value: float, labels: Labels) -> None:
        """See ``Sink``."""
        self._add({(metric.name, _sorted(labels)): value})

    def gauge(self, metric: Metric, value: float, labels: Labels) -> None:
        """See ``Sink``."""
        with self._lock:
            self._set[metric.name, _sorted(labels)] = value
        self._now_and_then()

    def observe(self, metric: Metric, value: float, labels: Labels) -> None:
        """See ``Sink``."""
        samples: dict[Key, float] = {
            (f"{metric.name}_sum", _sorted(labels)): value,
            (f"{metric.name}_count", _sorted(labels)): 1,
        }
        for bound in (*metric.buckets, float("inf")):
            key = (f"{metric.name}_bucket", _sorted({**labels, "le": _bound(bound)}))
            samples[key] = float(value <= bound)
        self._add(samples)

    def write(self) -> None:
        """Adds what has come since the last time to the file, whole or not at all.

        Raises:
            InputError: the folder cannot be written to.
        """
        with self._lock, _held(self.file):
            samples = dict(read(self.file)) if self.file.exists() else {}
            for key, value in self._added.items():
                samples[key] = samples.get(key, 0.0) + value
            samples |= self._set
            storage.write_bytes(self.file, render(samples.items()))
            self._added, self._set = {}, {}
            self._written = time.monotonic()

    def _add(self, samples: dict[Key, float]) -> None:
        with self._lock:
            for key, value in samples.items():
                self._added[key] = self._added.get(key, 0.0) + value
        self._now_and_then()

    def _now_and_then(self) -> None:
        if time.monotonic() - self._written > EVERY_S:
            self.write()


def read(file: Path) -> Iterator[tuple[Key, float]]:
    """The samples of a file that :func:`render` made, names without ``fertiray_``.

    Raises:
        InputError: it is no such file.
    """
    try:
        for family in text_string_to_metric_families(file.read_text()):
            for sample in family.samples:
                yield (sample.name.removeprefix(PREFIX), _sorted(sample.labels)), sample.value
    except ValueError as error:
        raise InputError(f"{file}: no metrics file ({error}); delete it") from error


def render(samples: Iterable[tuple[Key, float]]) -> bytes:
    """Samples in Prometheus' text format, with the help of each metric."""
    families: dict[str, Family] = {}
    for (name, labels), value in sorted(samples, key=lambda sample: _order(sample[0])):
        metric = _metric_of(name)
        if metric is None:  # of an earlier version
            continue
        if metric.name not in families:
            known = PREFIX + metric.name.removesuffix("_total")
            families[metric.name] = Family(known, metric.help, metric.kind)
        families[metric.name].add_sample(PREFIX + name, dict(labels), value)
    registry = CollectorRegistry()
    registry.register(_Families([*families.values()]))
    return generate_latest(registry)


class _Families:
    """What prometheus_client calls a collector."""

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> list[Family]:
        return self._families


def _metric_of(sample: str) -> Metric | None:
    if sample in METRICS:
        return METRICS[sample]
    stem, _, suffix = sample.rpartition("_")
    found = METRICS.get(stem)
    return found if suffix in ("bucket", "count", "sum") else None


def _order(key: Key) -> tuple[str, list[tuple[str, float | str]]]:
    """Buckets of one histogram by their bound, as the format wants them."""
    name, labels = key
    others = [(label, value) for label, value in labels if label != "le"]
    bound = dict(labels).get("le")
    return name, [*others, ("le", float(bound))] if bound is not None else [*others]


def _sorted(labels: Labels) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))


def _bound(bound: float) -> str:
    return "+Inf" if bound == float("inf") else repr(float(bound))


@contextmanager
def _held(file: Path) -> Iterator[None]:
    """Keeps other processes from writing the file."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = file.with_name(f".{file.name}.lock").open("w")
    except OSError as error:
        raise InputError(f"{FOLDER}={file.parent}: cannot be written ({error})") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
