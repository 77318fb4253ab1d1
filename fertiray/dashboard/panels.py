"""What a panel is, and the queries that panels are made of.

Ray puts ``ray_`` before the names that it exports, other processes do not, so a query takes both.
It sums over processes: Ray's series are each of one worker. What is counted in total is each
process's last value within the time shown, because finished jobs are counted too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fertiray.telemetry import METRICS, PREFIX

RANGE, RATE = "$__range", "$__rate_interval"  # Grafana's variables


@dataclass(frozen=True)
class Query:
    """One query of a panel.

    Attributes:
        expr: PromQL.
        legend: name of a series, with labels in double braces.
    """

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        id: names it among the panels.
        title: above it.
        about: what it shows, in a sentence.
        shape: ``lines`` over time, ``bars`` of last values, or one ``number``.
        unit: as Grafana calls it.
        queries: what is drawn in it.
        gpu: whether there is nothing to see without a GPU.
    """

    id: str
    title: str
    about: str
    shape: Literal["lines", "bars", "number"]
    unit: str
    queries: tuple[Query, ...]
    gpu: bool = False


@dataclass(frozen=True)
class Dashboard:
    """Panels on one page.

    Attributes:
        id: its file's name and Grafana's ``uid``.
        title: above all.
        panels: in reading order.
    """

    id: str
    title: str
    panels: tuple[Panel, ...]


def of(name: str, *matchers: str, suffix: str = "") -> str:
    """A metric by its name without prefixes, however it was exported.

    Args:
        name: of :data:`fertiray.telemetry.METRICS`.
        matchers: of labels, in PromQL.
        suffix: ``_bucket`` or ``_count`` of a histogram.
    """
    named = f'__name__=~"(ray_)?{PREFIX}{METRICS[name].name}{suffix}"'
    return "{" + ",".join([named, *matchers]) + "}"


def total(name: str, *matchers: str, suffix: str = "") -> str:
    """Last values of each process within the time shown; see :func:`of`."""
    return f"last_over_time({of(name, *matchers, suffix=suffix)}[{RANGE}])"


def rate(name: str, *matchers: str, suffix: str = "") -> str:
    """Increase a second; see :func:`of`."""
    return f"rate({of(name, *matchers, suffix=suffix)}[{RATE}])"


def quantile(share: float, name: str, *labels: str) -> str:
    """A quantile of a histogram over all processes, by labels."""
    by = ", ".join([*labels, "le"])
    return f"histogram_quantile({share:g}, sum by ({by}) ({rate(name, suffix='_bucket')}))"


def share(name: str, matcher: str) -> str:
    """Share of a counter's total that a matcher picks; 0 where it picks nothing."""
    return f"sum({total(name, matcher)} or 0 * {total(name)}) / sum({total(name)})"


def quantiles(name: str) -> tuple[Query, ...]:
    """The median, the 95th and the 99th percentile of a histogram."""
    return tuple(Query(quantile(share, name), f"p{share * 100:g}") for share in (0.5, 0.95, 0.99))
