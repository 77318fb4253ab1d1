"""One way of executing a network, timed in turns with the others, and what the turns say."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fertiray.bench.peak import Arithmetic, per_second
from fertiray.models.predict import Predictor

SINGLES = 3  # images of a turn, at least


@dataclass
class Way:
    """One engine of one network, and what its turns gave.

    Attributes:
        engine: its name.
        predictor: executes with it.
        arithmetic: of its products.
        by_batch: images a second by crops of a call, from the search of the best.
        parity: how it differs from ``eager``.
        rates: images a second at the best batch, by round.
        peaks: GEMM peaks in 10^9 multiply-adds a second, by round.
        singles: milliseconds of single images, of all rounds.
    """

    engine: str
    predictor: Predictor
    arithmetic: Arithmetic
    by_batch: dict[int, float] = field(default_factory=dict)
    parity: dict[str, float] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)
    singles: list[float] = field(default_factory=list)

    @property
    def batch(self) -> int:
        """Crops of the fastest call."""
        return max(self.by_batch, key=self.by_batch.__getitem__)

    def rate(self, crops: NDArray[np.uint8], seconds: float) -> float:
        """Images a second of calls with N x S x S x 3 uint8 crops."""
        self.predictor.batch_size = len(crops)  # a compiled program pads to it
        batch = torch.from_numpy(crops)
        return len(crops) * per_second(lambda: self.predictor.execute(batch), "cpu", seconds)

    def latencies(self, crops: NDArray[np.uint8], seconds: float) -> list[float]:
        """Milliseconds of calls with one crop, after one to warm up."""
        self.predictor.batch_size = 1
        image = torch.from_numpy(crops[:1])
        self.predictor.execute(image)
        times: list[float] = []
        while len(times) < SINGLES or sum(times) < 1000 * seconds:
            began = time.perf_counter()
            self.predictor.execute(image)
            times.append(1000 * (time.perf_counter() - began))
        return times

    def probabilities(self, crops: NDArray[np.uint8]) -> dict[str, Tensor]:
        """N x K_t by task."""
        self.predictor.batch_size = self.batch
        return {
            task: torch.from_numpy(values) for task, values in self.predictor.by_task(crops).items()
        }


def rates_by_batch(
    rate: Callable[[int], float], sizes: Sequence[int], seconds: float
) -> dict[int, float]:
    """Images a second by batch, from the smallest on, as long as a larger one is worth it.

    Args:
        rate: measures one.
        sizes: that may be tried, ascending.
        seconds: no call may be longer, as far as the smaller ones tell.

    Returns:
        Of those tried; ended by two in a row that are no faster than the best before them, by a
        call that would be too long, or by the device's memory.
    """
    found: dict[int, float] = {}
    for size in sizes:
        if found and size / max(found.values()) > seconds:
            break
        try:
            found[size] = rate(size)
        except torch.OutOfMemoryError:
            if not found:
                raise
            break
        rates = list(found.values())
        if len(rates) > 2 and max(rates[-2:]) <= max(rates[:-2]):
            break
    return found


def summary(way: Way, eager: Way, gmacs: float) -> dict[str, Any]:
    """What the turns of an engine say.

    Args:
        way: the engine, with as many rounds as ``eager``.
        eager: the reference of the same network.
        gmacs: 10^9 multiply-adds an image.

    Returns:
        ``engine``, ``arithmetic``; ``latency_ms`` of single images: ``mean``, ``sd``, ``min``,
        ``max``, ``n``; ``throughput``, median images a second at ``batch``, and ``rates`` by round;
        ``by_batch``; ``ratio_to_eager``, median over rounds, ``ratio_range``, the lowest and
        highest, and ``ratio_of_fastest``, of the fastest round of each; ``peak_gmacs_per_s``, the
        best of the rounds; ``peak_share``, median over rounds.
    """
    rates = np.array(way.rates)
    ratios = rates / np.array(eager.rates)
    singles = np.array(way.singles)
    return {
        "engine": way.engine,
        "arithmetic": way.arithmetic,
        "latency_ms": {
            "mean": float(singles.mean()),
            "sd": float(singles.std(ddof=1)),
            "min": float(singles.min()),
            "max": float(singles.max()),
            "n": len(singles),
        },
        "throughput": float(np.median(rates)),
        "batch": way.batch,
        "rates": way.rates,
        "by_batch": way.by_batch,
        "ratio_to_eager": float(np.median(ratios)),
        "ratio_range": [float(ratios.min()), float(ratios.max())],
        "ratio_of_fastest": float(rates.max() / max(eager.rates)),
        "peak_gmacs_per_s": max(way.peaks),
        "peak_share": float(np.median(rates * gmacs / np.array(way.peaks))),
    }
