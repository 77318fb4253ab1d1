"""``fertiray bench scale``: what a crop costs when there are many, and with how many workers.

Two things must stay flat from ten thousand crops to a hundred thousand: the time of a crop, because
nothing in a run may look at all crops at once, and the memory of a worker, because it holds one
batch (without Ray workers are threads, and the memory is that of the whole process, which also
made the stores). Start-up is a cost of the run, not of the crop, and is shown apart. More workers
than cores cannot help: the time of two is at best half of one's.

What a hundred clinics would need is simulated (:mod:`fertiray.bench.simulation`) from the rates
measured here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fertiray import checkpoint, provenance
from fertiray.bench import material
from fertiray.bench.pipeline import ceiling, timed_run
from fertiray.bench.simulation import Cluster, simulate
from fertiray.evaluation.figures.look import DOUBLE, blank, colours, letter, look
from fertiray.scoring.engine import choose_engines
from fertiray.scoring.run import Runner
from fertiray.scoring.shards import ScoringJob


def bench_scale(
    *,
    model: str = "basic_cnn",
    size: int = 64,
    given: str | None = None,
    crops: Sequence[int] = (1_000, 3_000, 10_000, 30_000, 100_000),
    workers: Sequence[int] = (1, 2),
    engine: str = "auto",
    device: str = "auto",
    runner: Runner,
    session: Callable[[], AbstractContextManager[None]],
    model_rate: float | None = None,
    s3_bandwidth: float = 1.25e9,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Scores stores of growing size, and simulates the rest.

    Args:
        model: registered name of a network that is trained for a moment.
        size: height and width of its input in pixels.
        given: folder of a checkpoint to take instead.
        crops: sizes of the stores, ascending.
        workers: numbers of workers, ascending; all but the largest score the middle store only.
        engine: how the network is executed.
        device: torch device.
        runner: of the runs.
        session: entered around all of them.
        model_rate: crops a second of a GPU for the simulation; None takes the cores' own.
        s3_bandwidth: bytes a second from S3 into a node, for the simulation.
        say: told every point.

    Returns:
        ``points`` (``crops``, ``workers``, ``seconds``, ``start_s``, ``crops_per_s`` after
        start-up, ``ms_per_crop``, ``peak_rss_mb``); ``memory_growth`` and ``cost_growth``, of the
        largest store beside the first of at least 10,000 crops (None where there is none);
        ``stages``; ``simulation``; ``engine``, ``command``, ``machine``, ``versions``.
    """
    with tempfile.TemporaryDirectory(prefix="fertiray-bench-") as place:
        folder = Path(place)
        images = material.drawn(folder / "drawn")
        network = given or material.network(folder / "network", model, size=size)
        name = checkpoint.read_meta(network).name if given else model
        (choice,) = choose_engines([network], engine, device, images)
        stages = ceiling(network, images, choice.engine, device, workers[-1])
        points = []
        with session():
            for count in crops:
                store = material.store(folder / f"store-{count}", images, count)
                middle = count == crops[len(crops) // 2]
                for number in workers if middle else workers[-1:]:
                    job = ScoringJob(store, (network,), "", device, engine)
                    run = timed_run(job, folder / "run", runner, choice, number)
                    points.append(_point(count, number, run))
                    say(
                        f"{count} crops, {number} workers: {run['rate']:.0f} crops/s after"
                        f" {run['start_s']:.1f} s, {run['peak_rss_mb']:.0f} MiB"
                    )
    size_bytes = sum(len(image) for image in images) / len(images)
    cluster = Cluster(
        stages["decode_per_core"],
        stages["preprocess_per_core"],
        model_rate or stages["model_rate"] / workers[-1],
        size_bytes,
        s3_bandwidth,
        model_on_cores=model_rate is None,
    )
    return {
        "points": points,
        **growth([point for point in points if point["workers"] == workers[-1]]),
        "stages": stages,
        "simulation": simulate(cluster),
        "model": name,
        "engine": choice.engine,
        "command": provenance.command(),
        "machine": provenance.machine(),
        "versions": provenance.versions(),
    }


def _point(count: int, workers: int, run: Mapping[str, float]) -> dict[str, Any]:
    return {
        "crops": count,
        "workers": workers,
        "seconds": round(run["whole_s"], 3),
        "start_s": round(run["start_s"], 3),
        "crops_per_s": round(run["rate"], 1),
        "ms_per_crop": round(1000 / run["rate"], 4),
        "peak_rss_mb": round(run["peak_rss_mb"], 1),
    }


def growth(points: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """By how much memory and cost of a crop grow from 10,000 crops on, as a share."""
    large = [point for point in points if point["crops"] >= 10_000]
    if len(large) < 2:
        return {"memory_growth": None, "cost_growth": None}
    first, last = large[0], large[-1]
    return {
        "memory_growth": round(last["peak_rss_mb"] / first["peak_rss_mb"] - 1, 4),
        "cost_growth": round(last["ms_per_crop"] / first["ms_per_crop"] - 1, 4),
    }


@look()
def scale_figure(points: Sequence[Mapping[str, Any]]) -> Figure:
    """Time, time of a crop and memory against the number of crops, a line for each workers."""
    figure = blank(DOUBLE, 58)
    axes = figure.subplots(1, 3)
    numbers = sorted({point["workers"] for point in points})
    for number, colour in zip(numbers, colours(len(numbers)), strict=True):
        own = [point for point in points if point["workers"] == number]
        counts = [point["crops"] for point in own]
        for axis, key in zip(axes, ("seconds", "ms_per_crop", "peak_rss_mb"), strict=True):
            label = f"{number} worker{'s' if number > 1 else ''}"
            axis.plot(counts, [point[key] for point in own], "o-", color=colour, label=label)
    axes[0].set(yscale="log", ylabel="whole run, s")
    axes[1].set(ylabel="a crop after start-up, ms", ylim=(0, None))
    axes[2].set(ylabel="largest memory of a worker, MiB", ylim=(0, None))
    axes[0].legend()
    for axis in axes:
        axis.set(xscale="log", xlabel="crops")
    letter(axes)
    return figure
