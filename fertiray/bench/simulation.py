"""A day of many clinics on a few GPUs: queueing, decoding and S3 bandwidth, simulated.

What the machine at hand does is measured; what a hundred clinics would need is computed from it. A
patient's crops are cut into shards, as in a crop store. Shards queue first come, first served, and
each goes to the GPU that is free first. Within a shard reading, decoding and the network overlap,
so the slowest of the three sets its time:

    S3      bandwidth of the node / GPUs at work on it / bytes a crop
    decode  cores a GPU / (1 / decoded a second and core + 1 / preprocessed a second and core)
    model   crops a second and GPU; on cores, the network's time is one more term of the line above

A node's bandwidth is divided by the GPUs at work on it when a shard begins, and that shard keeps
its part to its end. Not in it: failures, start-up of nodes, limits of the bucket, other work.

Checked against exact results of queueing theory in ``tests/bench/test_simulation.py``.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fertiray.data.crops import ROW_GROUP
from fertiray.errors import InputError
from fertiray.evaluation.figures.look import DOUBLE, GREY, blank, colours, letter, look

Pattern = Literal["spread", "batches", "at once"]
HOUR = 3600.0
S3, DECODE, MODEL = STAGES = ("S3", "decode", "model")
ASSUMPTIONS = (
    "A patient is done when all shards are; shards are served first come, first served.",
    "Reading, decoding and the network overlap: the slowest sets a shard's time.",
    "A node's S3 bandwidth is shared evenly by its GPUs at work when a shard begins.",
    "The bucket itself, start-up, failures and other work are left out; rates are the same at any"
    " number of GPUs.",
    "GPU-hours are those from the first submission to the last result, at work or not.",
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cluster:
    """What one GPU and its node do, as measured.

    Attributes:
        decode_per_core: crops that a core decodes a second.
        preprocess_per_core: decoded crops that a core makes ready for the network a second.
        model_rate: crops that the network does a second, on a GPU or, with ``model_on_cores``, on a
            core.
        crop_bytes: encoded size of a crop.
        s3_bandwidth: bytes a second from S3 into a node.
        cores_per_gpu: cores that serve each GPU.
        gpus_per_node: GPUs that share a node's bandwidth.
        model_on_cores: there is no GPU; "GPU" means so many cores.

    Raises:
        InputError: one of the rates or sizes is not above 0.
    """

    decode_per_core: float
    preprocess_per_core: float
    model_rate: float
    crop_bytes: float
    s3_bandwidth: float
    cores_per_gpu: int = 8
    gpus_per_node: int = 8
    model_on_cores: bool = False

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "model_on_cores" and not value > 0:
                raise InputError(f"{name} is {value}; it must be above 0")

    def rates(self, at_work: int) -> dict[str, float]:
        """Crops a second of one GPU by stage, while so many are at work on its node."""
        seconds = 1 / self.decode_per_core + 1 / self.preprocess_per_core
        found = {S3: self.s3_bandwidth / at_work / self.crop_bytes}
        if self.model_on_cores:
            # One core does all three; the stage that is called the limit is the longer one.
            both = self.cores_per_gpu / (seconds + 1 / self.model_rate)
            longer = MODEL if 1 / self.model_rate > seconds else DECODE
            return {**found, longer: both}
        return {**found, DECODE: self.cores_per_gpu / seconds, MODEL: self.model_rate}


def simulate(
    cluster: Cluster,
    *,
    gpus: Sequence[int] = (1, 2, 4, 8, 16, 32, 64),
    clinics: int = 100,
    patients: int = 117,
    crops: int = 30_000,
    shard: int = ROW_GROUP,
    working_hours: float = 8.0,
    pattern: Pattern = "spread",
    seed: int = 0,
) -> dict[str, Any]:
    """Simulates one day for each number of GPUs, with the same submissions.

    Args:
        cluster: measured rates.
        gpus: numbers of GPUs, each at least 1.
        clinics: how many.
        patients: of each clinic that day.
        crops: of each patient.
        shard: crops of a shard.
        working_hours: submissions fall into so many hours.
        pattern: ``spread``: each patient at a random time of these hours; ``batches``: each clinic
            all of its patients at once, at a random time; ``at once``: everything at the start.
        seed: of those times.

    Returns:
        ``points``, one for each number of GPUs: ``gpus``; ``rate`` (crops a second with all at
        work) and ``stages`` (the same by stage); ``bottleneck``, the stage that limited most
        shards; ``utilisation`` from first submission to last result; ``wait_s``, from submission to
        the first shard's start, and ``done_s``, from submission to the last shard's end, each with
        ``p50, p95, p99, mean``; ``finish_h``, hours from the start of work to the last result;
        ``gpu_hours`` and ``busy_gpu_hours``. Beside it ``assumptions``, ``cluster`` and the
        settings.

    Raises:
        InputError: a number of GPUs below 1.
    """
    if min(gpus) < 1:
        raise InputError(f"gpus: {min(gpus)}; each number must be at least 1")
    arrivals = _arrivals(clinics, patients, working_hours * HOUR, pattern, seed)
    sizes = _sizes(crops, shard)
    return {
        "points": [_point(cluster, number, arrivals, sizes) for number in gpus],
        "cluster": asdict(cluster),
        "clinics": clinics,
        "patients": patients,
        "crops": crops,
        "shard": shard,
        "working_hours": working_hours,
        "pattern": pattern,
        "seed": seed,
        "assumptions": list(ASSUMPTIONS),
    }


def _arrivals(clinics: int, patients: int, seconds: float, pattern: Pattern, seed: int) -> Floats:
    """Seconds after the start of work at which patients are submitted, in order."""
    random = np.random.default_rng(seed)
    if pattern == "at once":
        return np.zeros(clinics * patients)
    if pattern == "batches":
        return np.sort(random.uniform(0, seconds, clinics)).repeat(patients)
    return np.sort(random.uniform(0, seconds, clinics * patients))


def _sizes(crops: int, shard: int) -> list[int]:
    whole, rest = divmod(crops, shard)
    return [shard] * whole + ([rest] if rest else [])


def _point(cluster: Cluster, gpus: int, arrivals: Floats, sizes: Sequence[int]) -> dict[str, Any]:
    begun, ended, busy, limits = serve(cluster, gpus, arrivals, sizes)
    together = cluster.rates(min(gpus, cluster.gpus_per_node))
    last = float(ended.max())
    hours = gpus * (last - float(arrivals[0])) / HOUR
    return {
        "gpus": gpus,
        "rate": gpus * min(together.values()),
        "stages": {stage: gpus * rate for stage, rate in together.items()},
        "bottleneck": limits.most_common(1)[0][0],
        "utilisation": busy / HOUR / hours,
        "wait_s": _spread(begun - arrivals),
        "done_s": _spread(ended - arrivals),
        "finish_h": last / HOUR,
        "gpu_hours": hours,
        "busy_gpu_hours": busy / HOUR,
    }


def serve(
    cluster: Cluster, gpus: int, arrivals: Floats, sizes: Sequence[int]
) -> tuple[Floats, Floats, float, Counter[str]]:
    """Gives every shard to the GPU that is free first, in the order of arrival.

    Args:
        cluster: measured rates.
        gpus: how many.
        arrivals: seconds at which patients are submitted, ascending (N).
        sizes: crops of each shard of a patient.

    Returns:
        Seconds at which each patient's first shard began (N) and last one ended (N), seconds at
        work of all GPUs together, and shards by the stage that limited them.
    """
    own = range(1, cluster.gpus_per_node + 1)
    fastest = [min((rate, stage) for stage, rate in cluster.rates(n).items()) for n in own]
    free = [(0.0, gpu) for gpu in range(gpus)]
    until = np.zeros(gpus)  # when each is free
    node = [slice(n - n % len(own), n - n % len(own) + len(own)) for n in range(gpus)]
    shared = fastest[0] != fastest[-1]
    begun, ended = np.empty(len(arrivals)), np.empty(len(arrivals))
    busy, limits = 0.0, Counter[str]()
    for patient, submitted in enumerate(arrivals.tolist()):
        first, last = np.inf, 0.0
        for crops in sizes:
            free_at, gpu = free[0]
            start = max(free_at, submitted)
            others = np.count_nonzero(until[node[gpu]] > start) if shared else 0
            rate, stage = fastest[others]
            end = start + crops / rate
            heapq.heapreplace(free, (end, gpu))
            until[gpu] = end
            limits[stage] += 1
            busy += end - start
            first, last = min(first, start), max(last, end)
        begun[patient], ended[patient] = first, last
    return begun, ended, busy, limits


def _spread(seconds: Floats) -> dict[str, float]:
    p50, p95, p99 = np.percentile(seconds, (50, 95, 99)).tolist()
    return {"p50": p50, "p95": p95, "p99": p99, "mean": float(seconds.mean())}


@look()
def simulation_figure(result: Mapping[str, Any]) -> Figure:
    """Time to result, the end of the day and its cost against the number of GPUs.

    Args:
        result: of :func:`simulate`.

    Returns:
        A figure two columns wide: the time from submission to result, the end of the last patient
        beside the working hours, and utilisation with GPU-hours.
    """
    points = result["points"]
    numbers = [point["gpus"] for point in points]
    blue, orange, green = colours(3)
    figure = blank(DOUBLE, 58)
    axes = figure.subplots(1, 3)
    for name, colour in zip(("p50", "p95", "p99"), (blue, orange, green), strict=True):
        seconds = [point["done_s"][name] for point in points]
        axes[0].plot(numbers, seconds, "o-", color=colour, label=name)
    axes[0].set(yscale="log", ylabel="submission to result, s")
    axes[0].legend()
    axes[1].plot(numbers, [point["finish_h"] for point in points], "o-", color=blue)
    axes[1].axhline(result["working_hours"], color=GREY, linewidth=0.7, linestyle="--", zorder=0)
    for point in points:
        axes[1].annotate(
            point["bottleneck"], (point["gpus"], point["finish_h"]), (3, 3),
            textcoords="offset points", fontsize=6,
        )  # fmt: skip
    axes[1].set(ylabel="last result, h after the start of work", ylim=(0, None))
    axes[2].plot(numbers, [point["gpu_hours"] for point in points], "o-", color=blue, label="all")
    busy = [point["busy_gpu_hours"] for point in points]
    axes[2].plot(numbers, busy, "s--", color=orange, label="at work")
    axes[2].set(ylabel="GPU-hours", ylim=(0, None))
    axes[2].legend()
    for own in axes:
        own.set_xscale("log", base=2)
        own.set_xticks(numbers, [str(number) for number in numbers])
        own.set_xlabel("GPUs")
    letter(axes)
    return figure
