"""Results beside results: ours and the papers', sweeps, folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fertiray.evaluation.figures.look import DOUBLE, GREY, SINGLE, blank, colours, letter, look
from fertiray.papers.reported import reported

Row = Mapping[str, Any]

APART = 0.2  # between ours and the paper's, in rows
OURS, THEIRS = 5, 97  # where the columns of numbers start, points from the axis' end

WORDS = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "roc_auc": "ROC-AUC",
    "kept_mb": "kept for backward, MB an image",
    "peak_mb": "peak memory, MB",
    "params": "parameters, millions",
}

# What a sweep shows, as far as it was measured.
SWEPT = ("accuracy", "kept_mb", "peak_mb", "params")


def record_rows(record: Mapping[str, Any], metric: str = "accuracy") -> list[dict[str, Any]]:
    """The rows of a result of record, as :func:`ablation_figure` takes them.

    Args:
        record: a file of ``dashboards/results`` whose result has ``rows``
            (:mod:`fertiray.evaluation.tables`).
        metric: name of a metric.

    Returns:
        ``name``; ``value`` and ``ci`` over all images; ``reported``, the paper's value, and its
        ``reported_sd``, None where it has none; rows whose metric is not known are left out.
    """
    rows = []
    for row in record["result"]["rows"]:
        pooled = row["result"]["pooled"]
        paper = reported(row["reported"]) if row.get("reported") else {}
        if pooled[metric] is not None:
            rows.append(
                {
                    "name": row["name"],
                    "value": pooled[metric],
                    "ci": pooled["ci"].get(metric),
                    "reported": paper.get(metric),
                    "reported_sd": paper.get(f"{metric}_sd"),
                }
            )
    return rows


@look()
def ablation_figure(rows: Sequence[Row], metric: str = "accuracy") -> Figure:
    """Ours, with its confidence interval, beside the paper's value, a line for each configuration.

    Args:
        rows: as :func:`record_rows` returns them; at least one.
        metric: their metric, for the axis.

    Returns:
        A figure two columns wide.
    """
    blue, orange = colours(2)
    figure = blank(DOUBLE, 24 + 8 * len(rows))
    axes = figure.subplots()
    for y, row in zip(range(len(rows))[::-1], rows, strict=True):
        value, ci, paper, sd = (row[key] for key in ("value", "ci", "reported", "reported_sd"))
        text = f"{value:.3f}"
        if ci is not None:
            axes.plot(ci, [y, y], color=blue, solid_capstyle="butt")
            text += f" ({ci[0]:.3f} to {ci[1]:.3f})"
        axes.plot(value, y, "o", color=blue)
        _beside(axes, y, OURS, text)
        if paper is None:
            continue
        if sd is not None:
            above = y + APART
            axes.plot([paper - sd, paper + sd], [above] * 2, color=orange, solid_capstyle="butt")
        axes.plot(paper, y + APART, "D", color=orange, markerfacecolor="white")
        spread = "" if sd is None else f" ± {sd:.3f}"
        _beside(axes, y, THEIRS, f"{paper:.3f}{spread}")
    top = len(rows) - 0.35
    header = "◇ paper (± sd)" if any(row["reported_sd"] for row in rows) else "◇ paper"
    _beside(axes, top, OURS, "● ours (95% CI)")
    _beside(axes, top, THEIRS, header)
    axes.set_yticks(range(len(rows))[::-1], [row["name"] for row in rows])
    axes.set(xlabel=WORDS.get(metric, metric), ylim=(-0.6, len(rows) - 0.4))
    axes.grid(axis="x", color=GREY, linewidth=0.3, alpha=0.4)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


@look()
def sweep_figure(points: Sequence[Row], best: int | None = 3, name: str = "n") -> Figure:
    """Accuracy, memory and parameters against the number of reversible passes.

    Args:
        points: ``name``, and of :data:`SWEPT` those that were measured; ``<metric>_ci`` limits
            where known; a point without a value leaves a gap.
        best: the paper's best, marked; None for no mark.
        name: what is swept.

    Returns:
        A figure two columns wide.
    """
    rows = sorted(points, key=lambda row: row[name])
    shown = [metric for metric in SWEPT
             if any(row.get(metric) is not None for row in rows)]  # fmt: skip
    figure = blank(DOUBLE, 56)
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    for own, metric in zip(axes, shown, strict=True):
        scale = 1e-6 if metric == "params" else 1.0
        x = np.array([row[name] for row in rows])
        y = np.array([row.get(metric) for row in rows], np.float64) * scale
        own.plot(x, y, "o-", color=colours(1)[0])
        for row in rows:
            if row.get(f"{metric}_ci") is not None:
                limits = np.asarray(row[f"{metric}_ci"]) * scale
                own.plot([row[name]] * 2, limits, color=colours(1)[0], linewidth=0.7)
        if best is not None:
            own.axvline(best, color=GREY, linewidth=0.7, linestyle="--", label="paper's best",
                        zorder=0)  # fmt: skip
        own.set(xlabel=name, ylabel=WORDS[metric])
        own.xaxis.set_major_locator(MaxNLocator(integer=True))
        # Not to make a mountain of what does not change.
        if metric != "accuracy":
            own.set_ylim(0, 1.15 * np.nanmax(y))
    if best is not None:
        axes[0].legend()
    letter(axes)
    return figure


@look()
def folds_figure(folds: Mapping[str, Sequence[float | None]], metric: str = "accuracy") -> Figure:
    """The same folds under several methods, a line for each fold, and the methods' means.

    Args:
        folds: by method its value in each fold, in the order of the folds; None where a fold has
            none.
        metric: of the values, for the axis.

    Returns:
        A figure one column wide.
    """
    values = np.array(list(folds.values()), np.float64)  # methods x folds
    places = np.arange(len(folds))
    figure = blank(SINGLE, 66)
    axes = figure.subplots()
    for fold in values.T:
        axes.plot(places, fold, "o-", color=GREY, linewidth=0.6, markersize=3)
    names = []
    for place, name, own in zip(places, folds, values, strict=True):
        known = own[np.isfinite(own)]
        names.append(f"{name}\nmean {known.mean():.3f}" if len(known) else f"{name}\nnot known")
        if len(known):
            ends = [place - 0.18, place + 0.18]
            axes.plot(ends, [known.mean()] * 2, color=colours(1)[0], linewidth=1.6)
    axes.set_xticks(places, names)
    axes.set(xlim=(-0.5, len(folds) - 0.5), ylabel=f"{WORDS.get(metric, metric)}, by fold")
    return figure


def _beside(axes: Axes, y: float, away: float, text: str) -> None:
    """Text to the right of the axes, in the column that starts so many points away."""
    axes.annotate(
        text, (1, y), (away, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
        va="center", annotation_clip=False,
    )  # fmt: skip
