"""Getting on a Ray cluster: the job's own, one at an address, or one on this machine."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from fertiray.errors import InputError
from fertiray.interrupts import uninterrupted
from fertiray.on_ray.telemetry import exported

GROWS_TO = "FERTIRAY_GROWS_TO"


@contextmanager
def cluster(address: str | None = None, *, quiet: bool = False) -> Iterator[None]:
    """A connection to Ray, closed afterwards unless it was there before.

    The metrics of this process go through Ray meanwhile.

    Inside ``ray job submit`` that is the job's cluster; with an address, that cluster; else one of
    this machine's cores, without a dashboard. Token authentication is on, as Ray has it by default.

    Args:
        address: the cluster's; None for the job's own or a local one.
        quiet: what the workers of a local cluster print stays in Ray's log files.
    """
    if ray.is_initialized():
        with exported():
            yield
        return
    # Ray's usage report would be the only traffic to the outside.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    target = address or os.environ.get("RAY_ADDRESS")
    if target:
        ray.init(address=target, logging_level=logging.WARNING)
    else:
        ray.init(
            address="local",
            include_dashboard=False,
            logging_level=logging.WARNING,
            log_to_driver=not quiet,
        )
    try:
        with exported():
            yield
    finally:
        # Interrupted about here, commands have ended with an exit code of Ray's own instead of 130.
        with uninterrupted():
            ray.shutdown()


def resources() -> dict[str, float]:
    """What the cluster has, or may grow to: by resource, such as ``CPU`` and ``GPU``.

    Ray does not tell how far its autoscaler may go, so ``FERTIRAY_GROWS_TO`` does, in the
    environment of the head: ``{"CPU": 64, "GPU": 8}``. Without it a cluster whose GPU nodes are not
    up yet would be taken for one without GPUs.

    Raises:
        InputError: it is not such an object.
    """
    present: dict[str, float] = ray.cluster_resources()
    text = os.environ.get(GROWS_TO) or "{}"
    try:
        most = {str(name): float(number) for name, number in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f'{GROWS_TO}={text}: write {{"CPU": 64, "GPU": 8}}') from error
    return {name: max(present.get(name, 0), most.get(name, 0)) for name in present | most}


def cpus_per_worker(workers: int) -> float:
    """CPUs that each of ``workers`` actors may claim so that all of them fit the cluster.

    Half a core is left for the tasks that feed them; Ray's CPUs are a promise, not a limit.
    """
    total = float(resources().get("CPU", 1))
    return max(0.01, min(1.0, round((total - 0.5) / workers - 0.005, 2)))
