"""``fertiray bench train``: what Ray Train costs a step; see :mod:`fertiray.bench.training`."""

from __future__ import annotations

import tempfile
import time
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from typing import Any

import psutil
import ray

from fertiray import provenance
from fertiray.bench.training import (
    PLAIN,
    RAY,
    StepBench,
    Table,
    summary,
    take_turns,
    take_turns_plainly,
)
from fertiray.on_ray.cluster import cluster
from fertiray.on_ray.train import RayWorker, make_trainer
from fertiray.processes import cores


def bench_train(
    *,
    model: str = "efficientnet_lite0",
    size: int = 128,
    batch_size: int = 16,
    steps: int = 80,
    warm_up: int = 10,
    threads: int | None = None,
    address: str | None = None,
) -> dict[str, Any]:
    """Measures one worker's CPU steps with and without Ray Train, on the machine this runs on.

    Args:
        model: registered name of the network.
        size: height and width of its input in pixels.
        batch_size: crops a step.
        steps: steps of each side that count.
        warm_up: steps before those.
        threads: torch's; by default one a core.
        address: Ray cluster; None for the job's own or a local one.

    Returns:
        As :func:`fertiray.bench.training.summary`; ``background_cores``, the cores that Ray's other
        processes kept busy meanwhile; what was trained, ``command``, ``machine``, ``versions``.
    """
    bench = StepBench(model, size, batch_size, steps, warm_up, threads=threads or cores())
    table = Table()
    with (
        tempfile.TemporaryDirectory(prefix="fertiray-bench-") as folder,
        cluster(address, quiet=True),
        ThreadPoolExecutor(1) as thread,
    ):
        trainer = make_trainer(
            _work,
            {"bench": bench, "address": table.address, "key": table.key},
            workers=1,
            device="cpu",
            name=f"bench-{uuid.uuid4().hex[:8]}",
            storage_path=folder,
            max_failures=0,
            here=True,
        )
        fitted = thread.submit(trainer.fit)
        started = table.seat(RAY, lambda: _still(fitted))
        plain = get_context("spawn").Process(
            target=take_turns_plainly, args=(bench, table.address, table.key, started["niceness"])
        )
        plain.start()
        try:
            table.seat(PLAIN, lambda: _still(fitted, plain))
            began, before = time.perf_counter(), _busy()
            measured = table.follow()
            seconds, after = time.perf_counter() - began, _busy()
        finally:
            table.close()
        plain.join()
        fitted.result()
    others = [pid for pid in after if pid in before and pid != started["pid"]]
    return {
        **summary(measured, warm_up, steps),
        "background_cores": sum(after[pid] - before[pid] for pid in others) / seconds,
        "niceness": started["niceness"],
        **asdict(bench),
        "command": provenance.command(),
        "machine": provenance.machine(),
        "versions": provenance.versions(),
    }


def _work(job: dict[str, Any]) -> None:
    """The Ray side."""
    take_turns(job["bench"], RayWorker(), job["address"], job["key"], RAY)


def _still(fitted: Future[Any], plain: BaseProcess | None = None) -> None:
    """Raises where a side has ended before it came."""
    if fitted.done():
        fitted.result()
    if plain is not None and plain.exitcode is not None:
        raise RuntimeError(f"the plain side ended with exit code {plain.exitcode}")


def _busy() -> dict[int, float]:
    """CPU seconds so far of each process of this Ray session, by process id."""
    session = ray.get_runtime_context().get_session_name()
    found = {}
    for process in psutil.process_iter(["cmdline"]):
        if not any(session in argument for argument in process.info["cmdline"] or ()):
            continue
        # Ray's own processes name the session; workers have another title, and are their children.
        for member in (process, *_children(process)):
            try:
                times = member.cpu_times()
            except psutil.NoSuchProcess:
                continue
            found[member.pid] = times.user + times.system
    return found


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []
