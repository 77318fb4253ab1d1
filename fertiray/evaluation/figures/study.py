"""Figures of studies: sweeps of a setting, learning curves by cell, searches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fertiray.evaluation.figures.curves import Histories
from fertiray.evaluation.figures.look import DOUBLE, GREY, blank, colours, letter, look

Row = Mapping[str, Any]

WIDE = 30.0  # a sweep over more than this is drawn on a logarithmic scale
SHOWN = 12  # ticks of a categorical axis
FEW = 4  # values of an axis that are all written beside it
CMAP = colormaps["viridis"]


@look()
def setting_sweep(points: Sequence[Row], panels: Mapping[str, str], name: str) -> Figure:
    """Measures against a setting, a panel for each.

    Args:
        points: ``x``; by measure its value, None for a gap; ``<measure>_ci`` limits where known;
            ``<measure>_paper``, the paper's value where it has one.
        panels: by measure what it is called; at least one.
        name: of the setting.

    Returns:
        A figure two columns wide.
    """
    rows = sorted(points, key=lambda row: row["x"])
    x = np.array([row["x"] for row in rows], np.float64)
    wide = bool(x.min() > 0 and x.max() / x.min() > WIDE)
    blue, orange = colours(2)
    figure = blank(DOUBLE, 56)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for own, (measure, title) in zip(axes, panels.items(), strict=True):
        own.plot(x, _column(rows, measure), "o-", color=blue, label="ours (95% CI)")
        for row in rows:
            if row.get(f"{measure}_ci") is not None:
                own.plot([row["x"]] * 2, row[f"{measure}_ci"], color=blue, linewidth=0.7)
        paper = _column(rows, f"{measure}_paper")
        if np.isfinite(paper).any():
            own.plot(x, paper, "D", color=orange, markerfacecolor="white", label="paper")
            own.legend()
        own.set(xlabel=name, ylabel=title)
        if wide:
            own.set_xscale("log")
        elif np.array_equal(x, x.round()):
            own.xaxis.set_major_locator(MaxNLocator(integer=True))
    letter(axes)
    return figure


@look()
def learning_curves(cells: Mapping[str, Histories], measures: Mapping[str, str]) -> Figure:
    """How the cells of a grid learned: a line for each, the mean over its trials, and their range.

    Args:
        cells: by cell its trainings' epoch lines (:class:`fertiray.training.fit.Fitted`), at least
            one line each.
        measures: by key of those lines what it is called; a panel each.

    Returns:
        A figure two columns wide. A mean goes as far as the shortest training of its cell.
    """
    figure = blank(DOUBLE, 62)
    axes = figure.subplots(1, len(measures), squeeze=False)[0]
    for own, (measure, title) in zip(axes, measures.items(), strict=True):
        for (cell, histories), colour in zip(cells.items(), colours(len(cells)), strict=True):
            shortest = min(len(history) for history in histories)
            values = np.array(
                [
                    [line.get(measure, np.nan) for line in history[:shortest]]
                    for history in histories
                ],
                np.float64,
            )
            epochs = np.arange(1, shortest + 1)
            marker = "." if shortest == 1 else ""
            own.plot(epochs, values.mean(0), color=colour, marker=marker, label=cell)
            if len(values) > 1:
                own.fill_between(
                    epochs, values.min(0), values.max(0), color=colour, alpha=0.12, linewidth=0
                )
        own.set(xlabel="epoch", ylabel=title)
        own.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    axes[-1].legend(fontsize=6)
    letter(axes)
    return figure


@look()
def parallel_coordinates(
    trials: Sequence[Row], parameters: Sequence[str], value: str, *, low_is_good: bool
) -> Figure:
    """Every trial of a search as a line over its parameters, coloured by what it came to.

    Args:
        trials: by parameter its value, and ``value``, None or infinite for a trial without one,
            which is drawn in grey.
        parameters: in the order of the axes; numbers whose range is wide get a logarithmic axis.
        value: what the last axis is called.
        low_is_good: whether the lowest value is the best one.

    Returns:
        A figure two columns wide, the best trial drawn last and thick.
    """
    ends = _column(trials, "value")
    ends[~np.isfinite(ends)] = np.nan
    columns = [_Axis.of([row[name] for row in trials]) for name in parameters]
    last = _Axis.of(ends[np.isfinite(ends)].tolist() or [0.0])
    last.logarithmic = False
    axis_names = [*parameters, value]
    figure = blank(DOUBLE, 78)
    axes = figure.subplots()
    places = np.arange(len(axis_names))
    scale = Normalize(*last.limits)
    order = np.argsort(np.where(np.isnan(ends), np.inf, ends if low_is_good else -ends))[::-1]
    for number in order.tolist():
        heights = [
            own.height(trials[number][name]) for own, name in zip(columns, parameters, strict=True)
        ]
        known = np.isfinite(ends[number])
        best = number == order[-1] and known
        axes.plot(
            places if known else places[:-1],
            [*heights, last.height(ends[number])] if known else heights,
            color=CMAP(scale(ends[number])) if known else GREY,
            linewidth=2.0 if best else 0.7,
            alpha=1.0 if best else 0.7 if known else 0.4,
        )
    for place, own in enumerate([*columns, last]):
        axes.axvline(place, color=GREY, linewidth=0.6, zorder=0)
        for height, text in own.ticks():
            axes.text(place + 0.03, height, text, fontsize=6, va="center")
    axes.set_xticks(places, axis_names, rotation=12)
    axes.set(ylim=(-0.06, 1.06), xlim=(-0.2, len(axis_names) - 0.5), yticks=[])
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="x", length=0)
    figure.colorbar(ScalarMappable(scale, CMAP), ax=axes, label=value, pad=0.01)
    return figure


class _Axis:
    """One vertical axis: from a parameter's value to a height in [0, 1]."""

    def __init__(self, choices: list[str] | None, marks: list[float], log: bool) -> None:
        self.choices, self.marks, self.logarithmic = choices, marks, log
        self.low, self.high = marks[0], marks[-1]

    @classmethod
    def of(cls, values: Sequence[Any]) -> _Axis:
        """An axis that the values fit on: numbers on a scale, all else side by side."""
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        if len(numbers) < len(values):
            return cls(sorted({str(v) for v in values}), [0.0, 1.0], False)
        marks = sorted({float(v) for v in numbers})
        return cls(None, marks, bool(marks[0] > 0 and marks[-1] / marks[0] > WIDE))

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest value."""
        return self.low, self.high if self.high > self.low else self.low + 1.0

    def height(self, value: Any) -> float:
        """Where a value lies."""
        if self.choices is not None:
            return self.choices.index(str(value)) / max(1, len(self.choices) - 1)
        low, high = self.limits
        if self.logarithmic:
            return float(np.log(value / low) / np.log(high / low))
        return float((value - low) / (high - low))

    def ticks(self) -> list[tuple[float, str]]:
        """Heights with what is written there."""
        if self.choices is not None:
            return [(self.height(choice), choice) for choice in self.choices[:SHOWN]]
        marks = self.marks
        if len(marks) > FEW:
            middle = (self.low * self.high) ** 0.5 if self.logarithmic else sum(self.limits) / 2
            marks = [self.low, middle, self.high]
        return [(self.height(mark), f"{mark:.3g}") for mark in marks]


def _column(rows: Sequence[Row], key: str) -> NDArray[np.float64]:
    return np.array([row.get(key) for row in rows], np.float64)
