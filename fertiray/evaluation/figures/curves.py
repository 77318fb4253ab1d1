"""How a training went: losses, metrics and learning rate by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fertiray.evaluation.figures.look import DOUBLE, GREY, blank, colours, letter, look

Line = Mapping[str, float]
Histories = Sequence[Sequence[Line]]

# By panel: what its curves are called, by the names of fit's epoch lines.
PANELS = {
    "loss": {"training_loss": "training", "validation_loss": "validation"},
    "validation metric": {"validation_accuracy": "accuracy", "validation_macro_f1": "macro F1"},
    "learning rate": {"lr": ""},
}


@look()
def training_curves(histories: Histories, kept: Sequence[int] = ()) -> Figure:
    """Curves of one training, or of several (folds, members) as thin lines with their mean.

    Args:
        histories: for each training its epoch lines, as
            :class:`fertiray.training.fit.Fitted` has them; what a line lacks leaves a gap, and
            what all lack leaves the panel out. The mean goes as far as the shortest training.
        kept: the epoch that each training kept, marked on its loss; none by default.

    Returns:
        A figure two columns wide.
    """
    there = {name for history in histories for line in history for name in line}
    panels = {title: own for title, own in PANELS.items() if there & set(own)}
    figure = blank(DOUBLE, 58)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for own, (title, names) in zip(axes, panels.items(), strict=True):
        shown = [name for name in names if name in there]
        for name, colour in zip(shown, colours(len(shown)), strict=True):
            _curve(own, histories, name, names[name], colour)
        if title == "loss":
            _mark(own, histories, shown[-1], kept)
        own.set(xlabel="epoch", ylabel=title)
        if title == "learning rate":
            own.yaxis.set_major_formatter("{x:g}")
        own.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        if own.get_legend_handles_labels()[1]:
            own.legend()
    letter(axes)
    return figure


def _values(history: Sequence[Line], name: str) -> NDArray[np.float64]:
    return np.array([line.get(name, np.nan) for line in history], np.float64)


def _epochs(history: Sequence[Line]) -> list[float]:
    return [line["epoch"] for line in history]


def _curve(axes: Axes, histories: Histories, name: str, label: str, colour: str) -> None:
    several = len(histories) > 1
    for history in histories:
        thin = {"linewidth": 0.5, "alpha": 0.4} if several else {"label": label}
        # A training of one epoch is a point.
        marker = "." if len(history) == 1 else ""
        axes.plot(_epochs(history), _values(history, name), color=colour, marker=marker, **thin)
    if several:
        shortest = min(histories, key=len)
        mean = np.mean([_values(history, name)[: len(shortest)] for history in histories], axis=0)
        label = f"{label}, mean of {len(histories)}" if label else f"mean of {len(histories)}"
        axes.plot(_epochs(shortest), mean, color=colour, linewidth=1.4, label=label)


def _mark(axes: Axes, histories: Histories, name: str, kept: Sequence[int]) -> None:
    """The epochs that were kept, on the loss that chose them where there is one."""
    points = [
        (epoch, line.get(name, np.nan))
        for history, epoch in zip(histories, kept, strict=False)
        for line in history
        if line["epoch"] == epoch
    ]
    if not points:
        return
    label = f"epoch kept ({points[0][0]})" if len(points) == 1 else "epoch kept"
    axes.plot(*zip(*points, strict=True), "o", markerfacecolor="white", color=GREY, label=label)
