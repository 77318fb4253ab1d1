"""A service under load for a while, then under ten times too much: what it holds, what it loses.

The soak sends jobs one after the other, each deleted when it has ended, beside single requests at
half of what the service answers at most. What its processes hold (memory, open files, processes) is
read once a second; a leak shows as the last quarter of the soak above the second: the first is
left out, while caches fill. The overload sends ten times as many single requests as the service
answers at most, and more jobs at once than it takes in; what is refused must be refused properly
(429 or 503 with ``Retry-After``), what was accepted must end with every crop in its place.
"""

from __future__ import annotations

import base64
import json
import statistics
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx2

from fertiray.bench import material
from fertiray.bench.chaos.service import Footprint, Service
from fertiray.bench.load import Endpoint, capacity, open_loop
from fertiray.client import Client
from fertiray.errors import InputError

EXCESS = 10
TOGETHER = 40  # jobs sent at once; a clinic may have 20 waiting
CALM_S = 60.0  # in which a service must be itself again


def load(
    folder: Path,
    *,
    given: str | None = None,
    seconds: float = 300,
    overload_s: float = 20,
    crops: int = 512,
    on_ray: bool = True,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Loads a service of this machine.

    Args:
        folder: to work in.
        given: a checkpoint; by default EfficientNet-B0 at 128 pixels, trained for a moment. (Ten
            times what a tiny network answers is more than one machine can also send.)
        seconds: of the soak.
        overload_s: of the overload.
        crops: of each job.
        on_ray: the service runs on Ray; without, in one process.
        say: told what happens.

    Returns:
        ``soak``: ``seconds``, ``jobs``, ``crops``, ``requests``, ``errors`` (of requests),
        ``failed_jobs``, ``p99_ms``, ``footprints`` by quarter (medians), ``growth`` (last quarter
        over the second, less 1, by measure). ``overload``: what
        :func:`fertiray.bench.load.open_loop` returns, ``jobs_sent``, ``jobs_accepted``,
        ``jobs_refused``, ``crops_lost`` (of accepted jobs), ``recovery_s`` (until single requests
        are as fast as before; None where they were not within a minute).
    """
    network = given or material.network(folder / "network", "efficientnet_b0", size=128)
    images = material.drawn(folder / "drawn")
    tree = _tree(folder / "tree", images, crops)
    options = ("--workers", "1") if on_ray else ("--workers", "1", "--local")
    service = Service(folder, network, *options)
    service.start()
    try:
        client = service.client
        endpoint = _endpoint(service, images[0])
        _job(client, tree, crops)
        most = capacity(endpoint, 5)
        say(f"service ready; it answers {most:.0f} requests a second at most")
        soak = _soak(service, endpoint, most / 2, tree, crops, seconds)
        say(f"soak: {soak['jobs']} jobs, {soak['requests']} requests, growth {soak['growth']}")
        overload = _overload(service, endpoint, most, tree, crops, overload_s)
        say(f"overload: {overload['refused']} refused, calm after {overload['recovery_s']} s")
    finally:
        service.stop()
    return {"capacity_per_s": round(most, 1), "soak": soak, "overload": overload}


def _tree(folder: Path, images: list[bytes], crops: int) -> Path:
    for number in range(crops):
        place = folder / f"P{number % 4}" / "S1" / f"{number:05d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(images[number % len(images)])
    return folder


def _endpoint(service: Service, image: bytes) -> Endpoint:
    body = json.dumps({"images": [base64.b64encode(image).decode()]}).encode()
    headers = {
        "authorization": f"Bearer {service.token}",
        "content-type": "application/json",
    }
    return Endpoint(f"{service.url}/v1/score", headers, body)


def _job(client: Client, tree: Path, crops: int) -> bool:
    """One job from upload to deletion; whether it ended with every crop."""
    job = client.submit(tree)["id"]
    ended = client.wait(job, every=0.2)
    client.delete(job)
    return bool(ended["state"] == "done" and ended["counts"]["rows_in"] == crops)


def _soak(
    service: Service, endpoint: Endpoint, rate: float, tree: Path, crops: int, seconds: float
) -> dict[str, Any]:
    stop = threading.Event()
    seen: list[tuple[float, Footprint]] = []
    begin = time.monotonic()

    def watch() -> None:
        while not stop.wait(1):
            seen.append((time.monotonic() - begin, service.footprint()))

    def jobs() -> list[bool]:
        client, ended = service.client, []
        while time.monotonic() - begin < seconds:
            ended.append(_job(client, tree, crops))
        return ended

    with ThreadPoolExecutor(2) as pool:
        watching, working = pool.submit(watch), pool.submit(jobs)
        try:
            requests = open_loop(endpoint, rate, seconds)
            ended = working.result()
        finally:
            stop.set()
        watching.result()
    quarters: list[list[Footprint]] = [[], [], [], []]
    for at, footprint in seen:
        quarters[min(3, int(4 * at / seconds))].append(footprint)
    medians = [_middle(quarter) for quarter in quarters]
    return {
        "seconds": round(time.monotonic() - begin, 1),
        "jobs": len(ended),
        "crops": crops * len(ended),
        "failed_jobs": ended.count(False),
        **{name: requests[name] for name in ("requests", "errors", "refused", "p50_ms", "p99_ms")},
        "footprints": medians,
        "growth": {name: round(medians[3][name] / medians[1][name] - 1, 4) for name in medians[0]},
    }


def _middle(footprints: Sequence[Footprint]) -> dict[str, float]:
    rows = [asdict(footprint) for footprint in footprints]
    return {name: round(statistics.median(row[name] for row in rows), 1) for name in rows[0]}


def _overload(
    service: Service, endpoint: Endpoint, most: float, tree: Path, crops: int, seconds: float
) -> dict[str, Any]:
    usual = statistics.median(_one(endpoint) for _ in range(20))
    found = open_loop(endpoint, EXCESS * most, seconds)
    recovery = _recovery(endpoint, usual)
    with ThreadPoolExecutor(TOGETHER) as pool:
        answers = list(pool.map(lambda _: _sent(service, tree), range(TOGETHER)))
    accepted = [job for job in answers if job is not None]
    client = service.client
    counts = [client.wait(job, every=0.2)["counts"].get("rows_in", 0) for job in accepted]
    return {
        **found,
        "jobs_sent": TOGETHER,
        "jobs_accepted": len(accepted),
        "jobs_refused": TOGETHER - len(accepted),
        "crops_lost": crops * len(accepted) - sum(counts),
        "usual_ms": round(1000 * usual, 1),
        "recovery_s": recovery,
    }


def _sent(service: Service, tree: Path) -> str | None:
    """A job's id; None where the service did not take it in after the client's tries."""
    try:
        job: str = service.client.submit(tree, key=uuid.uuid4().hex)["id"]
    except InputError:
        return None
    return job


def _one(endpoint: Endpoint) -> float:
    """Seconds of one request; infinite where it is not answered."""
    begin = time.perf_counter()
    try:
        answer = httpx2.post(
            endpoint.url, content=endpoint.body, headers=dict(endpoint.headers), timeout=60
        )
    except httpx2.HTTPError:
        return float("inf")
    return time.perf_counter() - begin if answer.status_code == 200 else float("inf")


def _recovery(endpoint: Endpoint, usual: float) -> float | None:
    """Seconds until five requests in a row take at most three times as long as before."""
    begin, quick = time.monotonic(), 0
    while time.monotonic() - begin < CALM_S:
        quick = quick + 1 if _one(endpoint) <= 3 * usual else 0
        if quick == 5:
            return round(time.monotonic() - begin, 2)
    return None
