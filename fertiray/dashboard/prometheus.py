"""Panels drawn from a Prometheus, through its HTTP interface."""

from __future__ import annotations

import json
import math
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fertiray.dashboard.drawings import Drawing, Line, counts_by_bound
from fertiray.dashboard.panels import RANGE, RATE, Panel, Query
from fertiray.errors import InputError

POINTS = 120  # of a line
LEAST_RATE_S = 60.0  # rates are over at least so long, four usual intervals between scrapes
TIMEOUT_S = 15.0


@dataclass(frozen=True)
class Window:
    """The time that is shown.

    Attributes:
        start: seconds since 1970.
        end: the same.
        rate_s: seconds that rates are taken over.
    """

    start: float
    end: float
    rate_s: float

    @classmethod
    def last(cls, minutes: float) -> Window:
        """The last so many minutes."""
        now = time.time()
        return cls(now - 60 * minutes, now, max(LEAST_RATE_S, 60 * minutes / POINTS))

    @property
    def step(self) -> float:
        """Seconds between the points of a line."""
        return max(1.0, (self.end - self.start) / POINTS)

    def fill_in(self, expr: str) -> str:
        """A query with Grafana's variables replaced."""
        span = f"{max(1, round(self.end - self.start))}s"
        return expr.replace(RANGE, span).replace(RATE, f"{max(1, round(self.rate_s))}s")


class Prometheus:
    """A Prometheus.

    Args:
        url: its address, such as ``http://127.0.0.1:9090``.

    Raises:
        InputError: no address of the web.
    """

    def __init__(self, url: str) -> None:
        if urllib.parse.urlsplit(url).scheme not in {"http", "https"}:
            raise InputError(f"--prometheus {url}: give an address such as http://127.0.0.1:9090")
        self.url = url.rstrip("/")

    def draw(self, panel: Panel, window: Window) -> Drawing | None:
        """A panel's content; None where its queries have none.

        Raises:
            InputError: no Prometheus answers, or it refuses the query.
        """
        if panel.shape == "lines":
            lines = [line for query in panel.queries for line in self.lines(query, window)]
            return Drawing(lines=tuple(lines)) if lines else None
        values = [value for query in panel.queries for value in self.values(query, window)]
        if not values:
            return None
        if panel.shape == "number":
            return Drawing(number=values[0][1])
        if panel.queries[0].legend == "{{le}}":
            return Drawing(bars=counts_by_bound(values))
        return Drawing(bars=tuple(sorted(values)))

    def lines(self, query: Query, window: Window) -> Iterator[Line]:
        """The series of a query over the time shown, without what is no number."""
        found = self.get(
            "query_range",
            query=window.fill_in(query.expr),
            start=f"{window.start:.3f}",
            end=f"{window.end:.3f}",
            step=f"{window.step:.3f}",
        )
        for series in found["result"]:
            points = [(float(x), float(y)) for x, y in series["values"]]
            points = [(x, y) for x, y in points if math.isfinite(y)]
            if points:
                x, y = zip(*points, strict=True)
                yield Line(_legend(query, series["metric"]), x, y)

    def values(self, query: Query, window: Window) -> Iterator[tuple[str, float]]:
        """Name and value of each series of a query at the end of the time shown."""
        expr = window.fill_in(query.expr)
        found = self.get("query", query=expr, time=f"{window.end:.3f}")
        for series in found["result"]:
            value = float(series["value"][1])
            if math.isfinite(value):
                yield _legend(query, series["metric"]), value

    def firing(self) -> list[str]:
        """What the alerts that fire say."""
        alerts = self.get("alerts")["alerts"]
        found = [
            alert["annotations"].get("summary", alert["labels"]["alertname"])
            for alert in alerts
            if alert["state"] == "firing"
        ]
        return sorted(found)

    def get(self, what: str, **parameters: str) -> Any:
        """The ``data`` of an answer of Prometheus' interface.

        Raises:
            InputError: as :meth:`draw`.
        """
        address = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            text = error.read(500).decode(errors="replace")
            raise InputError(f"--prometheus {self.url}: {error} {text}".strip()) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"--prometheus {self.url}: no Prometheus answers there ({error})"
            ) from error


def _legend(query: Query, labels: dict[str, str]) -> str:
    name = query.legend
    for key, value in labels.items():
        name = name.replace("{{" + key + "}}", value)
    return name
