"""What Ray Train costs: the plain training loop and the same loop under Ray, step by step in turns.

A machine that others use too has no step time, it has one a minute. So both loops run at once in
two processes on the same threads, and only one of them at a time is let do a step: a step of the
one lies next to a step of the other, in turns first and second, and what slows the machine down
slows both. The first steps are left out; so is the time in which a loop waits for its turn.

What is left between the two is what Ray does inside the worker. What its other processes take from
the cores, they take from both loops; it is measured apart, as CPU time. Ray starts its workers with
a niceness of 15, which costs nothing by itself but makes them yield to everything else on a busy
machine: the plain loop runs with the same.

The end of an epoch, where the state is kept, is timed by itself.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TextIO

import numpy as np
import torch
from numpy.typing import ArrayLike

from fertiray.data.labelled import LabelledCrops
from fertiray.data.splits import Parts
from fertiray.models.preprocess import Preprocessing
from fertiray.training.config import Augmentation, TrainConfig
from fertiray.training.fit import fit
from fertiray.training.worker import LocalWorker, Worker

PLAIN, RAY = SIDES = ("plain", "ray")
START_S = 300.0  # in which both sides must have come
STEP_S = 300.0
RESAMPLES = 2000

Address = tuple[str, int]


@dataclass(frozen=True)
class StepBench:
    """What is trained.

    Attributes:
        model: registered name of the network.
        size: height and width of its input in pixels.
        batch_size: crops a step.
        steps: steps of each side that count.
        warm_up: steps before those.
        epoch: steps an epoch.
        threads: of torch, on each side.
        device: torch device.
    """

    model: str = "efficientnet_lite0"
    size: int = 128
    batch_size: int = 16
    steps: int = 80
    warm_up: int = 10
    epoch: int = 10
    threads: int = 2
    device: str = "cpu"

    def recipe(self) -> TrainConfig:
        """A training of so many steps, from scratch."""
        return TrainConfig(
            model=self.model,
            preprocessing=Preprocessing(self.size),
            epochs=-(-(self.steps + self.warm_up) // self.epoch),
            batch_size=self.batch_size,
            optimizer="adamw",
            lr=1e-4,
            keep="last",
            augmentation=Augmentation(rotation=15, scale=0.1, hflip=True),
            model_args={} if self.model in {"basic_cnn", "simple_cnn"} else {"pretrained": False},
        )

    def crops(self) -> tuple[LabelledCrops, Parts]:
        """Noise: the same on both sides, and as much work as pictures."""
        random = np.random.default_rng(0)
        training, count = self.epoch * self.batch_size, (self.epoch + 1) * self.batch_size
        names = tuple(str(number) for number in range(count))
        everything = np.arange(count)
        crops = LabelledCrops(
            images=random.integers(0, 256, (count, self.size, self.size, 3), dtype=np.uint8),
            targets=everything[:, None] % 2,
            tasks={"class": ("unbound", "bound")},
            names=names,
            patients=(None,) * count,
            digests=names,
            groups=everything,
            facets={},
            aspects=np.full(count, np.nan, dtype=np.float32),
        )
        return crops, Parts(everything[:training], everything[training:], everything[:0])


@dataclass(frozen=True)
class Measured:
    """Seconds by side, in the order of measurement.

    Attributes:
        steps: of every step, the ones to leave out first.
        cpu: CPU seconds of the same steps, all threads together.
        reports: of every end of an epoch.
    """

    steps: dict[str, list[float]] = field(default_factory=lambda: {side: [] for side in SIDES})
    cpu: dict[str, list[float]] = field(default_factory=lambda: {side: [] for side in SIDES})
    reports: dict[str, list[float]] = field(default_factory=lambda: {side: [] for side in SIDES})


class Turns:
    """One side's view: it waits for its turn, and tells how long the step took.

    Args:
        address: of the :class:`Table`.
        key: its key.
        side: ``plain`` or ``ray``.
    """

    def __init__(self, address: Address, key: str, side: str) -> None:
        self._socket = socket.create_connection(address, timeout=START_S)
        self._file = self._socket.makefile("r")
        self.began = self.cpu = 0.0
        self.say(key=key, side=side, pid=os.getpid(), niceness=os.nice(0))

    def say(self, **values: Any) -> None:
        """Sends one line."""
        self._socket.sendall(json.dumps(values).encode() + b"\n")

    def wait(self) -> None:
        """Returns when it is this side's turn."""
        if not self._file.readline():
            raise ConnectionError("the other side of the measurement has ended")
        self._start()

    def _start(self) -> None:
        self.began, self.cpu = time.perf_counter(), time.process_time()

    def step(self, loss: float) -> None:
        """Ends a turn; for ``fit``'s ``on_step``."""
        del loss
        self.say(step=time.perf_counter() - self.began, cpu=time.process_time() - self.cpu)
        self.wait()

    def report(self, seconds: float) -> None:
        """Tells how long the end of an epoch took; the next step begins now."""
        self.say(report=seconds)
        self._start()

    def end(self) -> None:
        """The last turn is over."""
        self.say(end=True)
        self._file.close()
        self._socket.close()


class Table:
    """Where both sides sit: gives the turns and writes down what they say."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(1.0)
        self._seats: dict[str, tuple[socket.socket, TextIO]] = {}
        self._greetings: dict[str, dict[str, Any]] = {}
        self.address: Address = self._server.getsockname()
        self.key = secrets.token_hex(16)

    def seat(self, side: str, check: Callable[[], None]) -> dict[str, Any]:
        """Waits for a side; the other one may come before it and keeps its seat.

        Args:
            side: ``plain`` or ``ray``.
            check: called now and then; raises where the side will not come.

        Returns:
            ``pid`` and ``niceness`` of its process.

        Raises:
            TimeoutError: it did not come.
        """
        give_up = time.monotonic() + START_S
        while side not in self._greetings:
            check()
            try:
                connection, _ = self._server.accept()
            except TimeoutError:
                if time.monotonic() > give_up:
                    raise
                continue
            connection.settimeout(STEP_S)
            file = connection.makefile("r")
            greeting: dict[str, Any] = json.loads(file.readline())
            if hmac.compare_digest(greeting["key"], self.key):
                self._seats[greeting["side"]] = (connection, file)
                self._greetings[greeting["side"]] = greeting
            else:
                connection.close()
        return self._greetings[side]

    def follow(self) -> Measured:
        """Lets both sides take turns to the end.

        Raises:
            TimeoutError: a side stopped answering.
        """
        measured = Measured()
        turn = 0
        while self._seats:
            for side in SIDES if turn % 2 == 0 else SIDES[::-1]:
                self._turn(side, measured)
            turn += 1
        return measured

    def _turn(self, side: str, measured: Measured) -> None:
        connection, file = self._seats[side]
        connection.sendall(b"\n")
        for line in file:
            said = json.loads(line)
            if "report" in said:
                measured.reports[side].append(said["report"])
            elif "step" in said:
                measured.steps[side].append(said["step"])
                measured.cpu[side].append(said["cpu"])
                return
            else:
                file.close()
                connection.close()
                del self._seats[side]
                return
        raise ConnectionError(f"the {side} side ended in the middle of a step")

    def close(self) -> None:
        """Nobody can come any more."""
        self._server.close()
        for connection, _ in self._seats.values():
            connection.close()


class _Timed:
    """A worker whose loop takes turns."""

    def __init__(self, worker: Worker, turns: Turns) -> None:
        self.worker, self.turns = worker, turns
        self.rank, self.size, self.device = worker.rank, worker.size, worker.device

    def resume(self) -> bytes | None:
        self.turns.wait()
        return None

    def report(self, metrics: dict[str, Any], state: Callable[[], bytes]) -> None:
        began = time.perf_counter()
        self.worker.report(metrics, state)
        self.turns.report(time.perf_counter() - began)


def take_turns(bench: StepBench, worker: Worker, address: Address, key: str, side: str) -> None:
    """One side: trains, a step a turn."""
    torch.set_num_threads(bench.threads)
    crops, parts = bench.crops()
    turns = Turns(address, key, side)
    fit(bench.recipe(), crops, parts, _Timed(worker, turns), on_step=turns.step)
    turns.end()


def take_turns_plainly(bench: StepBench, address: Address, key: str, niceness: int) -> None:
    """The plain side, a process of its own; its state is kept in a folder, as ``train`` does."""
    os.nice(max(0, niceness - os.nice(0)))  # before torch starts its threads
    with tempfile.TemporaryDirectory(prefix="fertiray-bench-") as folder:
        take_turns(bench, LocalWorker(bench.device, folder), address, key, PLAIN)


def summary(measured: Measured, warm_up: int, steps: int, seed: int = 0) -> dict[str, Any]:
    """Medians in milliseconds and what lies between them.

    Args:
        measured: as many steps of each side, in pairs.
        warm_up: steps to leave out.
        steps: steps that count after those.
        seed: of the resampling.

    Returns:
        ``plain_step_ms``, ``ray_step_ms``; ``overhead``, the second over the first minus 1, and its
        95% percentile bootstrap interval over pairs, ``overhead_ci``; ``step_ms_quartiles``; the
        same of CPU time, which others on the machine change less: ``plain_step_cpu_ms``,
        ``ray_step_cpu_ms``, ``cpu_overhead``, ``cpu_overhead_ci``; ``report_ms`` (median of Ray's
        ends of an epoch), ``plain_report_ms``; ``n`` pairs.
    """
    counted = slice(warm_up, warm_up + steps)
    pairs = np.array([measured.steps[side][counted] for side in SIDES])  # 2 x n seconds
    wall = _compare(pairs, seed)
    cpu = _compare([measured.cpu[side][counted] for side in SIDES], seed)
    quartiles = np.quantile(pairs, [0.25, 0.75], axis=1).T * 1000
    return {
        "plain_step_ms": wall.plain_ms,
        "ray_step_ms": wall.ray_ms,
        "overhead": wall.overhead,
        "overhead_ci": wall.interval,
        "step_ms_quartiles": dict(zip(SIDES, quartiles.tolist(), strict=True)),
        "plain_step_cpu_ms": cpu.plain_ms,
        "ray_step_cpu_ms": cpu.ray_ms,
        "cpu_overhead": cpu.overhead,
        "cpu_overhead_ci": cpu.interval,
        "report_ms": float(np.median(measured.reports[RAY]) * 1000),
        "plain_report_ms": float(np.median(measured.reports[PLAIN]) * 1000),
        "n": pairs.shape[1],
    }


@dataclass(frozen=True)
class _Comparison:
    plain_ms: float
    ray_ms: float
    overhead: float
    interval: list[float]


def _compare(seconds: ArrayLike, seed: int) -> _Comparison:
    """Medians of 2 x n seconds, and their ratio."""
    pairs = np.asarray(seconds, dtype=np.float64)
    plain, ray = np.median(pairs, axis=1).tolist()
    n = pairs.shape[1]
    drawn = np.random.default_rng(seed).integers(0, n, (RESAMPLES, n))
    resampled = np.median(pairs[:, drawn], axis=2)
    interval = np.quantile(resampled[1] / resampled[0] - 1, [0.025, 0.975])
    return _Comparison(plain * 1000, ray * 1000, ray / plain - 1, interval.tolist())
