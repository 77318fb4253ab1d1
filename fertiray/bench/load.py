"""Open-loop load on an HTTP endpoint: requests come when they come, not when the last one is done.

Arrivals are Poisson, drawn beforehand; a latency counts from the moment its request was due, so a
service that stalls is charged for everyone who would have waited (a closed loop leaves them out).
Any endpoint that takes a POST can be measured: this service, or a peer in an environment of its
own that serves the same network.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import numpy as np

SHARES = (0.2, 0.35, 0.5, 0.65, 0.8, 0.9)
REFUSED = (429, 503)  # with a time to come back: overload, not an error


@dataclass(frozen=True)
class Endpoint:
    """What is asked.

    Attributes:
        url: of the POST.
        headers: token and content type.
        body: of every request.
    """

    url: str
    headers: Mapping[str, str]
    body: bytes


def open_loop(
    endpoint: Endpoint, rate: float, seconds: float, *, seed: int = 0, timeout: float = 60
) -> dict[str, Any]:
    """Sends requests at a rate for some time and waits for all answers.

    Args:
        endpoint: what is asked.
        rate: requests a second, on average.
        seconds: for which they are sent.
        seed: of their times.
        timeout: seconds after which a request counts as an error.

    Returns:
        ``rate_per_s`` as asked for, ``requests``, ``answered`` (200), ``refused`` (429 or 503 with
        ``Retry-After``), ``errors`` (anything else) and ``errors_by_kind`` (status, or what the
        client says), ``answered_per_s``, and ``p50_ms``, ``p95_ms``, ``p99_ms``, ``max_ms`` of the
        answered ones; None where there are none.
    """
    return asyncio.run(_run(endpoint, rate, seconds, _arrivals(rate, seconds, seed), timeout))


def alone(call: Callable[[], object], rate: float, seconds: float, *, seed: int = 0) -> list[float]:
    """The same arrivals for a function of this process that does one after the other.

    It is what no service around that function can beat without doing several at once: the same
    waiting for one another, and the same idle, cold processor between them.

    Args:
        call: what is called for each request.
        rate: requests a second, on average.
        seconds: for which they come.
        seed: of their times; the same as in :func:`open_loop` means the same times.

    Returns:
        Milliseconds from when each was due to its end.
    """
    took = []
    begin = time.perf_counter()
    for at in _arrivals(rate, seconds, seed):
        time.sleep(max(0.0, begin + at - time.perf_counter()))
        call()
        took.append(1000 * (time.perf_counter() - begin - at))
    return took


def _arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Seconds at which requests are due."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, max(1, int(2 * rate * seconds) + 10))
    due = np.cumsum(gaps)
    return [float(at) for at in due[due < seconds]]


def capacity(endpoint: Endpoint, seconds: float, *, together: int = 16) -> float:
    """Answers a second when a fixed number of clients ask without a pause (a closed loop).

    Args:
        endpoint: what is asked.
        seconds: for which they ask.
        together: clients.

    Raises:
        RuntimeError: it answers nothing.
    """
    found = asyncio.run(_saturate(endpoint, seconds, together))
    if found == 0:
        raise RuntimeError(f"{endpoint.url} answered none of the requests")
    return found


def sweep(
    endpoint: Endpoint, most: float, seconds: float, shares: Sequence[float] = SHARES
) -> list[dict[str, Any]]:
    """:func:`open_loop` at several shares of what the endpoint answers at most, ascending."""
    return [
        open_loop(endpoint, share * most, seconds, seed=place) for place, share in enumerate(shares)
    ]


def held(points: Sequence[Mapping[str, Any]], p99_ms: float) -> float | None:
    """The largest load that is answered whole with a p99 within a bound; None where none is.

    Args:
        points: of :func:`sweep`.
        p99_ms: the bound.
    """
    good = [
        point["answered_per_s"]
        for point in points
        if point["answered"] == point["requests"] and point["p99_ms"] <= p99_ms
    ]
    return max(good, default=None)


async def _saturate(endpoint: Endpoint, seconds: float, together: int) -> float:
    async with _session(60) as client:
        begin = time.perf_counter()

        async def ask() -> int:
            count = 0
            while time.perf_counter() < begin + seconds:
                kind, _ = await _one(client, endpoint, begin)
                count += kind == "answered"
            return count

        counts = await asyncio.gather(*(ask() for _ in range(together)))
        return sum(counts) / (time.perf_counter() - begin)


async def _run(
    endpoint: Endpoint, rate: float, seconds: float, due: list[float], timeout: float
) -> dict[str, Any]:
    async with _session(timeout) as client:
        await _one(client, endpoint, time.perf_counter())  # opens a connection
        begin = time.perf_counter()
        tasks = []
        for at in due:
            await asyncio.sleep(max(0.0, begin + at - time.perf_counter()))
            tasks.append(asyncio.create_task(_one(client, endpoint, begin + at)))
        answers = await asyncio.gather(*tasks)
    took = max(seconds, time.perf_counter() - begin)
    kinds = Counter(kind for kind, _ in answers)
    errors = {kind: n for kind, n in kinds.items() if kind not in ("answered", "refused")}
    times = np.array([latency for kind, latency in answers if kind == "answered"])
    cuts = np.percentile(times, [50, 95, 99, 100]) if len(times) else [None] * 4
    names = ("p50_ms", "p95_ms", "p99_ms", "max_ms")
    return {
        "rate_per_s": round(rate, 3),
        "requests": len(answers),
        **{kind: kinds[kind] for kind in ("answered", "refused")},
        "errors": sum(errors.values()),
        "errors_by_kind": errors,
        "answered_per_s": round(kinds["answered"] / took, 3),
        **{
            name: None if cut is None else round(1000 * float(cut), 2)
            for name, cut in zip(names, cuts, strict=True)
        },
    }


def _session(timeout: float) -> aiohttp.ClientSession:
    """As many connections as there are requests, kept for the next ones."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(timeout)
    )


async def _one(client: aiohttp.ClientSession, endpoint: Endpoint, due: float) -> tuple[str, float]:
    """``answered``, ``refused`` or the kind of error, and seconds since the request was due."""
    try:
        async with client.post(
            endpoint.url, data=endpoint.body, headers=endpoint.headers
        ) as answer:
            await answer.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        return type(error).__name__, time.perf_counter() - due
    if answer.status == 200:
        kind = "answered"
    elif answer.status in REFUSED and "retry-after" in answer.headers:
        kind = "refused"
    else:
        kind = str(answer.status)
    return kind, time.perf_counter() - due
