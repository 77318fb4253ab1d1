"""The service's metrics: from the record of jobs, so that they are the same in every process."""

from __future__ import annotations

import time
from collections.abc import Iterator

from fertiray import telemetry
from fertiray.serving.jobs import JobStore

STATES = ("queued", "running", "done", "failed", "cancelled")


def measured(jobs: JobStore) -> Iterator[tuple[str, str, float]]:
    """Every gauge of the service: its name in ``telemetry.METRICS``, the state, the value."""
    totals, now = jobs.totals(), time.time()
    for state in STATES:
        own = totals.get(state, {"jobs": 0, "crops": 0, "oldest": now})
        yield "service_jobs", state, own["jobs"]
        yield "service_crops", state, own["crops"]
        if state in ("queued", "running"):
            yield "service_job_age_seconds", state, round(max(0.0, now - own["oldest"]), 3)


def tell(jobs: JobStore) -> None:
    """Sends them to this process's sink."""
    for name, state, value in measured(jobs):
        telemetry.gauge(name, value, state=state)


def text(jobs: JobStore) -> str:
    """The same in Prometheus' text format."""
    lines: list[str] = []
    for name, state, value in sorted(measured(jobs)):
        full, known = telemetry.PREFIX + name, telemetry.METRICS[name]
        head = f"# HELP {full} {known.help}"
        if head not in lines:
            lines += [head, f"# TYPE {full} {known.kind}"]
        lines.append(f'{full}{{state="{state}"}} {value:g}')
    return "\n".join(lines) + "\n"
