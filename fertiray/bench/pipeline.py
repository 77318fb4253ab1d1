"""``fertiray bench pipeline``: how close bulk scoring comes to what the machine can do.

Every crop has to be decoded, cut and resized, and go through the network. On a CPU all of it is
work for the same cores, so no arrangement of it can be faster than

    ceiling = cores / (1 / decode + 1 / preprocess + cores / model)

with ``decode`` and ``preprocess`` in crops a second of one core and ``model`` of all of them
together, each measured alone, on the crops and in the engine of the run. What a run loses beside it
is reading, writing, Python, and cores that wait. On a GPU the two work side by side and the ceiling
is the slower one.

The rate of a run counts from the moment its first worker has its first shard; what is before that
(processes, networks, engines that are tried) is ``start_s``. Ceiling, run and Ray take turns, and
ratios are of one turn, so that a machine that is slower for a minute does not bend them.

The others (``peers``) score the same crops with the same network, each in a process of its own. How
long they take to start is taken out by difference: of a long and a short pass in one process.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
import torch

from fertiray import checkpoint, provenance
from fertiray.bench import material
from fertiray.bench.peers import environment
from fertiray.data.images import CROP, decode
from fertiray.errors import InputError
from fertiray.models.preprocess import resize_crop
from fertiray.scoring.engine import Choice, choose_engines, torch_device, use
from fertiray.scoring.run import Runner, score
from fertiray.scoring.shards import BATCH, ScoringJob, score_locally

PEERS = {
    "plain": "fertiray.bench.peers.plain",
    "ray_template": "fertiray.on_ray.bench_template",
    "daft": "fertiray.bench.peers.daft_batches",
}
PEER_S = 900.0  # in which a peer must be done


def bench_pipeline(
    *,
    model: str = "efficientnet_b0",
    size: int = 128,
    given: str | None = None,
    crops: int = 20480,
    peer_crops: int = 4800,
    rounds: int = 3,
    workers: int,
    engine: str = "auto",
    device: str = "auto",
    peers: Mapping[str, str] | None = None,
    on_ray: tuple[Callable[[], AbstractContextManager[None]], Runner] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measures scoring against its ceiling and against what else one could use.

    Args:
        model: registered name of the network that is trained for a moment.
        size: height and width of its input in pixels.
        given: folder of a checkpoint to take instead.
        crops: of a run.
        peer_crops: that the others score.
        rounds: in which ceiling, local run and run on Ray take turns.
        workers: threads or actors.
        engine: how the network is executed; ``auto`` settles it once, for all rounds.
        device: torch device.
        peers: names of :data:`PEERS` with the Python interpreter of each.
        on_ray: connects to Ray, and the runner there; None leaves it out.
        say: told the ceiling as soon as it is known, and each round.

    Returns:
        ``decode_per_core``, ``preprocess_per_core``, ``model_rate``, ``ceiling``; ``local_rate``,
        ``local_ratio``; ``rate``, ``ratio`` and ``start_s`` on Ray (locally, without it);
        ``plain_rate``, ``speedup_vs_plain``, ``peers`` by name (``rate``, ``speedup``,
        ``agreement`` with our labels, ``version``); ``peak_rss_mb``, ``engine``, ``tried``,
        ``rounds``, ``command``, ``machine``, ``versions``.
    """
    with tempfile.TemporaryDirectory(prefix="fertiray-bench-") as place:
        folder = Path(place)
        images = material.drawn(folder / "drawn")
        network = given or material.network(folder / "network", model, size=size)
        name = checkpoint.read_meta(network).name if given else model
        (choice,) = choose_engines([network], engine, device, images)
        say(f"engine {choice.engine}; tried: {_tried(choice)}")
        store = material.store(folder / "store", images, crops)
        job = ScoringJob(store, (network,), "", device, engine, (choice.engine,))
        runners: dict[str, Runner] = {"local": score_locally}
        if on_ray is not None:
            runners["ray"] = on_ray[1]
        measured = []
        with nullcontext() if on_ray is None else on_ray[0]():
            for number in range(rounds):
                part: dict[str, Any] = dict(
                    ceiling(network, images, choice.engine, device, workers)
                )
                say(f"round {number + 1}: ceiling {part['ceiling']:.0f} crops/s")
                for way, runner in runners.items():
                    part[way] = timed_run(job, folder / way, runner, choice, workers)
                    say(f"{way}: {part[way]['rate']:.0f} crops/s")
                measured.append(part)
        few = material.store(folder / "few", images, peer_crops)
        ours = _labels(folder / "labels", few, network, choice.engine, device)
        others = {}
        for peer, python in (peers or {}).items():
            others[peer] = _peer(peer, python, few, network, peer_crops, ours, device)
            say(f"{peer}: {others[peer]['rate'] or others[peer]['why']}")
    return {"model": name, **_summary(measured, others, choice, workers, crops)}


def ceiling(
    network: str, images: Sequence[bytes], engine: str, device: str, workers: int
) -> dict[str, float]:
    """Rates of the stages, each alone, and the ceiling that follows; see the module.

    Args:
        network: checkpoint folder.
        images: encoded crops.
        engine: how the network is executed.
        device: torch device.
        workers: cores that a run may use.
    """
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        predictor, meta = checkpoint.load_predictor(network, device=torch_device(device))
        use(predictor, engine, workers)
        arrays = [decode(image, limits=CROP) for image in images]
        resized = np.stack([resize_crop(array, meta.preprocessing) for array in arrays])
        decoding = _per_second(lambda: [decode(image, limits=CROP) for image in images])
        resizing = _per_second(
            lambda: np.stack([resize_crop(array, meta.preprocessing) for array in arrays])
        )
        with ThreadPoolExecutor(workers) as pool:
            calls = [resized[:BATCH]] * workers
            list(pool.map(predictor.predict, calls))  # compiles and warms up
            model = _per_second(lambda: list(pool.map(predictor.predict, calls)), seconds=3)
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])
    n = len(images)
    decode_rate, resize_rate, model_rate = n * decoding, n * resizing, BATCH * workers * model
    if predictor.device != "cpu":
        top = min(workers / (1 / decode_rate + 1 / resize_rate), model_rate)
    else:
        top = workers / (1 / decode_rate + 1 / resize_rate + workers / model_rate)
    return {
        "decode_per_core": decode_rate,
        "preprocess_per_core": resize_rate,
        "model_rate": model_rate,
        "ceiling": top,
    }


def _per_second(action: Callable[[], object], seconds: float = 1.0) -> float:
    """How often a second, the fastest half of the calls: what the machine can do."""
    times: list[float] = []
    while sum(times) < seconds or len(times) < 4:
        begin = time.perf_counter()
        action()
        times.append(time.perf_counter() - begin)
    return 1 / float(np.median(sorted(times)[: -(-len(times) // 2)]))


def timed_run(
    job: ScoringJob, out: Path, runner: Runner, choice: Choice, workers: int
) -> dict[str, float]:
    """One run anew, timed.

    Returns:
        ``rate``, crops a second from the moment the first worker has its first shard; ``start_s``,
        what was before that; ``whole_s``, all of it; ``peak_rss_mb``, the largest memory of a
        worker.
    """
    began = time.time()
    job = ScoringJob(job.store, job.checkpoints, str(out), job.device, job.engine)

    def settled(*_: Any) -> tuple[Choice, ...]:
        return (choice,)

    found = score(job, runner, workers=workers, choose=settled, resume=False)
    shards = pl.read_parquet(out / "shards.parquet")
    ends = [when.timestamp() for when in shards["finished"]]
    first = min(end - taken for end, taken in zip(ends, shards["seconds"], strict=True))
    rows = sum(shards["scored"]) + sum(shards["rejected"])
    assert rows == found["rows_in"], (rows, found)
    return {
        "rate": rows / (max(ends) - first),
        "start_s": first - began,
        "whole_s": found["seconds"],
        "peak_rss_mb": found["memory_mb"]["worker_peak"],
    }


def _labels(folder: Path, store: str, network: str, engine: str, device: str) -> list[str]:
    """Our labels of a store's crops, in its order, by the engine of the runs."""
    job = ScoringJob(store, (network,), str(folder), device, engine)
    score(job, score_locally, workers=1)
    table = pl.concat(pl.read_parquet(p) for p in sorted((folder / "scores").iterdir()))
    return table["label"].to_list()


def _peer(
    peer: str,
    python: str,
    store: str,
    network: str,
    crops: int,
    ours: Sequence[str],
    device: str,
) -> dict[str, Any]:
    """What another program does with the same crops, or why it could not be asked."""
    call = [python, "-m", PEERS[peer], store, network, str(crops), torch_device(device)]
    limits: dict[str, Any] = {"env": environment(), "timeout": PEER_S}
    try:
        done = subprocess.run(call, capture_output=True, text=True, **limits)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"rate": None, "why": str(error)}
    if done.returncode:
        return {"rate": None, "why": (done.stderr.strip().splitlines() or ["no word"])[-1][:300]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    theirs = found.pop("labels")
    found["agreement"] = float(np.mean(np.array(theirs) == np.array(ours)))
    return found


def _summary(
    measured: Sequence[Mapping[str, Any]],
    others: Mapping[str, dict[str, Any]],
    choice: Choice,
    workers: int,
    crops: int,
) -> dict[str, Any]:
    def middle(values: Sequence[float]) -> float:
        return round(statistics.median(values), 3)

    ways = {
        way: {
            "rate": middle([part[way]["rate"] for part in measured]),
            "ratio": middle([part[way]["rate"] / part["ceiling"] for part in measured]),
            "start_s": middle([part[way]["start_s"] for part in measured]),
            "peak_rss_mb": middle([part[way]["peak_rss_mb"] for part in measured]),
        }
        for way in ("local", "ray")
        if way in measured[0]
    }
    main = ways.get("ray", ways["local"])
    for values in others.values():
        known = values["rate"] is not None
        values["speedup"] = round(ways["local"]["rate"] / values["rate"], 2) if known else None
        values["speedup_ray"] = round(main["rate"] / values["rate"], 2) if known else None
    plain = others.get("plain", {"rate": None, "speedup": None})
    stages = ("decode_per_core", "preprocess_per_core", "model_rate", "ceiling")
    return {
        **{name: middle([part[name] for part in measured]) for name in stages},
        **main,
        "local_rate": ways["local"]["rate"],
        "local_ratio": ways["local"]["ratio"],
        "plain_rate": plain["rate"],
        "speedup_vs_plain": plain["speedup"],
        "peers": dict(others),
        "engine": choice.engine,
        "tried": list(choice.tried),
        "rounds": [dict(part) for part in measured],
        "crops": crops,
        "workers": workers,
        "command": provenance.command(),
        "machine": provenance.machine(),
        "versions": provenance.versions(),
    }


def _tried(choice: Choice) -> str:
    return "; ".join(
        f"{row['engine']} {row.get('crops_per_s', 0):.0f}/s {row.get('why') or ''}".strip()
        for row in choice.tried
    )


def interpreters(given: Sequence[str]) -> dict[str, str]:
    """The Python interpreter of every peer: this one, or as ``NAME=PYTHON`` says.

    Raises:
        InputError: an unknown name, or an interpreter that is not there.
    """
    found = dict.fromkeys(PEERS, sys.executable)
    for text in given:
        name, _, python = text.partition("=")
        if name not in PEERS or not Path(python).is_file():
            raise InputError(
                f"--peer-python {text}: NAME=PYTHON with NAME one of {', '.join(PEERS)}, and the"
                " file of an interpreter"
            )
        found[name] = python
    return found
