"""``fertiray bench serve``: what the HTTP endpoint costs beside ``fertiray score``.

Two questions. In bulk: how many crops a second does a job get, beside ``fertiray score`` on the
same crops with as many workers on the same Ray? A job pays for the record of its progress and
shares the machine with the HTTP interface; its networks are warm, where ``fertiray score`` loads
them. And one by one: how long does a person wait? A lone crop cannot be faster than the network on
a batch of one (``batch1_ms``); on top come HTTP and, at load, the queue. What the queue alone costs
is measured too: the network without a service, at the same arrivals (``alone_p99_ms``).
"""

from __future__ import annotations

import base64
import json
import os
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from fertiray import provenance
from fertiray.bench import material
from fertiray.bench.chaos.service import free_port
from fertiray.bench.load import Endpoint, alone, capacity, held, open_loop, sweep
from fertiray.bench.peers import environment
from fertiray.client import Client
from fertiray.errors import InputError
from fertiray.on_ray.cluster import cluster
from fertiray.on_ray.score import choose_on_ray, score_on_ray
from fertiray.on_ray.serve import serving
from fertiray.scoring.engine import torch_device
from fertiray.scoring.run import score
from fertiray.scoring.scorer import Scorer
from fertiray.scoring.shards import ScoringJob
from fertiray.serving import tokens
from fertiray.serving.address import Address
from fertiray.serving.catalogue import served
from fertiray.serving.settings import Settings

CLINIC = "bench"
START_S = 120  # in which a peer must answer


def bench_serve(
    *,
    model: str = "efficientnet_b0",
    size: int = 128,
    crops: int = 8192,
    seconds: float = 30,
    rounds: int = 2,
    workers: int,
    engine: str = "auto",
    device: str = "auto",
    litserve: str | None = None,
) -> dict[str, Any]:
    """Measures a service on a Ray of this machine, with drawn crops.

    Args:
        model: registered name of the network that is trained for a moment.
        size: its input's height and width in pixels.
        crops: of a job.
        seconds: of each load.
        rounds: in which ``fertiray score`` and a job take turns.
        workers: of both.
        engine: of both; with ``auto``, interactive requests take what the first job settled on.
        device: torch device.
        litserve: the Python interpreter of an environment with LitServe, to measure it too.

    Returns:
        ``rate``, ``score_rate`` (crops a second from start to report, median of the rounds) and
        ``ratio_to_score``; ``scoring_phase``, the same of the scoring alone; ``upload``, of a job
        whose crops come as a zip; ``batch1_ms``; ``p50_ms``, ``p95_ms``, ``p99_ms`` and ``errors``
        at half load, ``p99_over_batch1``; ``alone_p50_ms``, ``alone_p99_ms``: the network in this
        process, without a service, at the same arrivals; all of ``half_load``,
        ``half_load_with_bulk`` and ``overload``; ``capacity_per_s``, whose half is half load: what
        the endpoint answers when asked without a pause, at most what one network can do one by
        one; ``sweep``, loads up to
        that; ``peers`` (``litserve``: ``capacity_per_s``, ``sweep``, and by bound of the p99
        what each of the two holds); what was measured, ``command``, ``machine``, ``versions``.
    """
    with (
        tempfile.TemporaryDirectory(prefix="fertiray-bench-") as name,
        cluster(quiet=True),
    ):
        folder = Path(name)
        network = material.network(folder / model, model, size=size)
        images = material.drawn(folder / "drawn")
        store = material.store(folder / "store", images, crops)
        settings = Settings(
            str(folder / "state"),
            str(folder / "tokens.json"),
            (network,),
            {CLINIC: (str(folder),)},
            device=device,
            engine=engine,
            workers=workers,
        )
        with _service(settings) as (client, token):
            _job(client, store)  # loads networks, settles engines
            taken = [
                (_scored(store, network, folder / f"run-{n}", settings), _job(client, store))
                for n in range(rounds)
            ]
            interactive = settings.interactive_engine(served(network))
            batch1 = _batch1_ms(network, images, settings.device, interactive)
            upload = _uploaded(client, images, folder, min(crops, 2048))
            endpoint = _endpoint(client, token, images[0])
            most = min(capacity(endpoint, min(seconds, 10)), 1000 / batch1)
            half = open_loop(endpoint, most / 2, seconds)
            paced = alone(_lone(network, images, settings.device, interactive), most / 2, seconds)
            with _busy(client, store):
                beside = open_loop(endpoint, most / 2, seconds, seed=1)
            overload = open_loop(endpoint, 3 * most, min(seconds, 10), seed=2)
            points = sweep(endpoint, capacity(endpoint, min(seconds, 10)), min(seconds, 15))
        peers = {}
        if litserve is not None:
            with _litserve(litserve, network, torch_device(device)) as url:
                theirs = Endpoint(f"{url}/predict", endpoint.headers, endpoint.body)
                peers["litserve"] = _beside(theirs, points, batch1, seconds)
    jobs, scores = ([pair[side]["rate"] for pair in taken] for side in (1, 0))
    phases = [[pair[side]["scoring"] for pair in taken] for side in (1, 0)]
    return {
        "rate": _median(jobs),
        "score_rate": _median(scores),
        "ratio_to_score": round(_median(jobs) / _median(scores), 3),
        "scoring_phase": {
            "rate": _median(phases[0]),
            "score_rate": _median(phases[1]),
            "ratio": round(_median(phases[0]) / _median(phases[1]), 3),
        },
        "rounds": [{"score": one, "job": other} for one, other in taken],
        "upload": upload,
        "batch1_ms": round(batch1, 2),
        **{name: half[name] for name in ("p50_ms", "p95_ms", "p99_ms", "errors")},
        "p99_over_batch1": None if half["p99_ms"] is None else round(half["p99_ms"] / batch1, 2),
        "alone_p50_ms": round(float(np.percentile(paced, 50)), 2),
        "alone_p99_ms": round(float(np.percentile(paced, 99)), 2),
        "capacity_per_s": round(most, 2),
        "half_load": half,
        "half_load_with_bulk": beside,
        "overload": overload,
        "sweep": points,
        "peers": peers,
        "model": model,
        "size": size,
        "crops": crops,
        "workers": workers,
        "engine": engine,
        "interactive_engine": interactive,
        "command": provenance.command(),
        "machine": provenance.machine(),
        "versions": provenance.versions(),
    }


def _median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 2)


def _batch1_ms(network: str, images: Sequence[bytes], device: str, engine: str) -> float:
    """Median time of the network on one crop in this process, as the service executes it."""
    call = _lone(network, images, device, engine)
    times = []
    for _ in range(30):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return 1000 * float(np.median(times))


def _lone(network: str, images: Sequence[bytes], device: str, engine: str) -> Callable[[], object]:
    """Scores one crop, another one each time; warm."""
    scorer, following = Scorer([network], device=device, engines=[engine]), cycle(images)
    for _ in range(10):
        scorer([next(following)])
    return lambda: scorer([next(following)])


@contextmanager
def _service(settings: Settings) -> Iterator[tuple[Client, str]]:
    token, _ = tokens.add(settings.tokens, CLINIC)
    address = Address(port=free_port())
    with serving(settings, address):
        yield Client(address.url, token), token


def _scored(store: str, network: str, run: Path, settings: Settings) -> dict[str, float]:
    """``fertiray score`` on Ray: crops a second in all, and of the scoring alone."""
    job = ScoringJob(store, (network,), str(run), settings.device, settings.engine)
    found = score(job, score_on_ray, workers=settings.workers, choose=choose_on_ray)
    return _rates(found, found["seconds"])


def _job(client: Client, store: str) -> dict[str, float]:
    """A job of the same crops: crops a second from the request to the report, and of scoring."""
    begin = time.perf_counter()
    job = client.submit(store, store=True)
    ended = client.wait(job["id"], every=0.1)
    took = time.perf_counter() - begin
    assert ended["state"] == "done", ended
    return _rates(ended["counts"], took)


def _rates(counts: dict[str, Any], seconds: float) -> dict[str, float]:
    rate = round(counts["rows_in"] / seconds, 2)
    return {"rate": rate, "seconds": round(seconds, 2), "scoring": counts["crops_per_s"]}


def _uploaded(client: Client, images: Sequence[bytes], folder: Path, count: int) -> dict[str, Any]:
    """A job whose crops are uploaded in a folder's tar: everything from the first byte counts."""
    tree = folder / "tree"
    for number in range(count):
        place = tree / f"P{number * material.PATIENTS // count}" / "S1" / f"{number:06d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(images[number % len(images)])
    begin = time.perf_counter()
    job = client.submit(tree)
    sent = time.perf_counter() - begin
    ended = client.wait(job["id"], every=0.1)
    took = time.perf_counter() - begin
    size = sum(len(images[number % len(images)]) for number in range(count))
    return {
        "crops": count,
        "rate": round(count / took, 2),
        "upload_s": round(sent, 2),
        "upload_mb_per_s": round(size / sent / 1e6, 2),
        "state": ended["state"],
    }


def _endpoint(client: Client, token: str, image: bytes) -> Endpoint:
    body = json.dumps({"images": [base64.b64encode(image).decode()]}).encode()
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    return Endpoint(f"{client.url}/v1/score", headers, body)


@contextmanager
def _litserve(python: str, network: str, device: str) -> Iterator[str]:
    """LitServe with the same network; yields its address."""
    port = free_port()
    call = [python, "-m", "fertiray.bench.peers.lit_api", network, device, str(port)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(
        call, env=environment(), stdout=quiet, stderr=quiet, start_new_session=True
    )
    url = f"http://127.0.0.1:{port}"
    try:
        give_up = time.monotonic() + START_S
        while True:
            with suppress(httpx2.HTTPError):
                if httpx2.get(f"{url}/health").status_code == 200:
                    break
            if process.poll() is not None or time.monotonic() > give_up:
                raise InputError(f"--litserve {python}: LitServe does not start there")
            time.sleep(0.5)
        yield url
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # it has processes of its own
        process.wait()


def _beside(
    theirs: Endpoint, ours: Sequence[dict[str, Any]], batch1: float, seconds: float
) -> dict[str, Any]:
    """Another service's loads, and what both hold within the same p99."""
    most = capacity(theirs, min(seconds, 10))
    points = sweep(theirs, most, min(seconds, 15))
    bounds = {}
    for times in (3, 5, 10, 20):
        one, other = held(ours, times * batch1), held(points, times * batch1)
        ratio = round(one / other, 2) if one and other else None
        bounds[f"p99 <= {times} x batch1"] = {"ours": one, "theirs": other, "ratio": ratio}
    return {"capacity_per_s": round(most, 2), "sweep": points, "held": bounds}


@contextmanager
def _busy(client: Client, store: str) -> Iterator[None]:
    """Jobs one after the other meanwhile."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            job = client.submit(store, store=True)["id"]
            while not stop.is_set() and client.job(job)["state"] in ("queued", "running"):
                stop.wait(0.2)
            client.cancel(job)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
