"""What a panel shows, whatever it came from, and its geometry on the page.

Values are in the panel's unit; times are seconds since 1970.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fertiray.scoring.figures import PALETTE

TIME, EPOCH = "time", "epoch"
WIDTH, HEIGHT = 560.0, 210.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 12.0, 10.0, 26.0

_SECONDS = ((3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_COUNTS = ((1e9, "G"), (1e6, "M"), (1e4, "k"))


@dataclass(frozen=True)
class Line:
    """A series over time or epochs.

    Attributes:
        name: in the legend.
        x: N times or epochs, in order.
        y: N values.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Drawing:
    """The content of a panel; one of the three, by the panel's shape.

    Attributes:
        lines: series.
        bars: names and values.
        number: a single value.
        axis: what the lines lie over.
    """

    lines: tuple[Line, ...] = ()
    bars: tuple[tuple[str, float], ...] = ()
    number: float | None = None
    axis: str = TIME


@dataclass
class Chart:
    """Lines as they lie on the page; all numbers in SVG units.

    Attributes:
        paths: name, colour, last value and ``d`` of each line's path, and whether it is a dot.
        across: place and text of the ticks below.
        up: place and text of the ticks at the left.
    """

    paths: list[dict[str, Any]] = field(default_factory=list)
    across: list[tuple[float, str]] = field(default_factory=list)
    up: list[tuple[float, str]] = field(default_factory=list)


def chart(drawing: Drawing, unit: str) -> Chart:
    """Lays out lines, from 0 to a little above the highest value."""
    every = [x for line in drawing.lines for x in line.x]
    first, last = min(every), max(every)
    span = last - first or 1.0
    top = 1.08 * max(0.0, *(y for line in drawing.lines for y in line.y)) or 1.0

    def at(x: float, y: float) -> str:
        across = LEFT + (WIDTH - LEFT - RIGHT) * (x - first) / span
        up = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(max(y, 0.0) / top, 1.0)
        return f"{across:.1f} {up:.1f}"

    made = Chart()
    for number, line in enumerate(drawing.lines):
        points = [at(x, y) for x, y in zip(line.x, line.y, strict=True)]
        if len(points) == 1:  # a dot, as a line of no length with round ends
            points *= 2
        made.paths.append(
            {
                "name": line.name,
                "colour": PALETTE[number % len(PALETTE)],
                "last": text(line.y[-1], unit),
                "d": "M" + " L".join(points),
                "dot": len(line.x) == 1,
            }
        )
    plain = "" if ":" in unit else unit  # a tick has no room for a suffix
    made.up = [(float(at(first, y).split()[1]), text(y, plain)) for y in ticks(top)]
    names = _moments(first, last) if drawing.axis == TIME else _epochs(first, last)
    made.across = [(float(at(x, 0).split()[0]), name) for x, name in names]
    return made


def ticks(top: float, most: int = 5) -> list[float]:
    """Round numbers from 0 to at most ``top``, a step of 1, 2 or 5 times a power of ten apart."""
    rough = top / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return [round(i * step, 12) for i in range(math.floor(top / step + 1e-9) + 1)]


def text(value: float, unit: str) -> str:
    """A value as a person reads it; units as Grafana calls them."""
    if unit == "percentunit":
        return f"{100 * value:.3g}%"
    if unit == "s":
        for size, name in _SECONDS:
            if abs(value) >= size:
                return f"{value / size:.3g} {name}"
        return "0 s"
    suffix = {"reqps": " /s"}.get(unit, unit.removeprefix("suffix:") if ":" in unit else "")
    for size, name in _COUNTS:
        if abs(value) >= size:
            return f"{value / (1e3 if name == 'k' else size):.4g}{name}{suffix}"
    return f"{value:.4g}{suffix}"


def counts_by_bound(cumulative: Sequence[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    """The buckets of a Prometheus histogram as bars, of what lies above the last one if any."""
    ordered = sorted(cumulative, key=lambda bucket: float(bucket[0]))
    bars, below = [], 0.0
    for bound, value in ordered:
        name = "more" if math.isinf(float(bound)) else f"≤ {100 * float(bound):g}%"
        bars.append((name, value - below))
        below = value
    return tuple(bars if bars[-1][1] else bars[:-1])


def _moments(first: float, last: float) -> list[tuple[float, str]]:
    form = "%H:%M:%S" if last - first < 600 else "%H:%M" if last - first < 86400 else "%d %b"
    places = [first + (last - first) * share for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    return [(x, datetime.fromtimestamp(x, UTC).strftime(form)) for x in dict.fromkeys(places)]


def _epochs(first: float, last: float) -> list[tuple[float, str]]:
    return [(x, f"{x:g}") for x in ticks(last, 8) if x >= first and x == int(x)]
