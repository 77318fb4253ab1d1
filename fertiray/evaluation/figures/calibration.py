"""Whether probabilities mean what they say: reliability diagrams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from fertiray.evaluation.calibration import reliability
from fertiray.evaluation.figures.look import DOUBLE, GREY, SINGLE, blank, colours, letter, look

BINS = 15


@look()
def reliability_figure(
    probabilities: Mapping[str, ArrayLike], labels: ArrayLike, bins: int = BINS
) -> Figure:
    """Accuracy against confidence, above how often each confidence occurs.

    Bins of equal width are drawn as points with an area that grows with their images; bins of equal
    mass, which no empty bin spoils, as a line. Both give their expected calibration error.

    Args:
        probabilities: N x K by title, such as before and after temperature scaling; one or two.
        labels: N true class indices.
        bins: how many, of either kind.

    Returns:
        A figure one column wide for each title.
    """
    titles = list(probabilities)
    figure = blank(SINGLE if len(titles) == 1 else DOUBLE, 95)
    grid = figure.subplots(2, len(titles), squeeze=False, sharex=True, height_ratios=(3, 1))
    for column, title in enumerate(titles):
        upper, lower = grid[:, column]
        scores = np.asarray(probabilities[title], np.float64)
        _diagram(upper, scores, labels, bins)
        upper.legend(title=title, loc="lower center", bbox_to_anchor=(0.5, 1.0))
        lower.hist(scores.max(1), np.linspace(0, 1, bins + 1), color=colours(1)[0], alpha=0.6)
        lower.set(xlabel="confidence", ylabel="images")
    if len(titles) > 1:
        letter(grid[0])
    return figure


def equal_mass(probabilities: ArrayLike, labels: ArrayLike, bins: int = BINS) -> dict[str, Any]:
    """As :func:`fertiray.evaluation.calibration.reliability`, with as many images in every bin.

    Images are sorted by confidence and cut into parts whose sizes differ by at most one (Nixon et
    al., "Measuring calibration in deep learning", CVPR workshops 2019).

    Args:
        probabilities: N x K, rows sum to 1; N >= 1.
        labels: N true class indices.
        bins: how many; no more than there are images.

    Returns:
        ``ece``; ``bins``: ``n``, ``confidence`` and ``accuracy``.
    """
    scores = np.asarray(probabilities, np.float64)
    sure, right = scores.max(1), scores.argmax(1) == np.asarray(labels, np.int64)
    parts = np.array_split(np.argsort(sure, kind="stable"), min(bins, len(sure)))
    rows = [
        {"n": len(own), "confidence": float(sure[own].mean()), "accuracy": float(right[own].mean())}
        for own in parts
    ]
    gaps = [row["n"] * abs(row["accuracy"] - row["confidence"]) for row in rows]
    return {"ece": sum(gaps) / len(sure), "bins": rows}


def _diagram(axes: Axes, scores: ArrayLike, labels: ArrayLike, bins: int) -> None:
    width, mass = reliability(scores, labels, bins), equal_mass(scores, labels, bins)
    full = [row for row in width["bins"] if row["n"]]
    blue, orange = colours(2)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.5, linestyle=":")
    axes.vlines(
        [row["confidence"] for row in full],
        [row["confidence"] for row in full],
        [row["accuracy"] for row in full],
        color=blue, linewidth=0.5,
    )  # fmt: skip
    most = max(row["n"] for row in full)
    axes.scatter(
        [row["confidence"] for row in full],
        [row["accuracy"] for row in full],
        s=[6 + 40 * row["n"] / most for row in full],
        color=blue, linewidths=0, label=f"{bins} bins of equal width: ECE {width['ece']:.3f}",
    )  # fmt: skip
    axes.plot(
        [row["confidence"] for row in mass["bins"]],
        [row["accuracy"] for row in mass["bins"]],
        color=orange, marker="s", markersize=2.5, linewidth=0.5,
        label=f"{len(mass['bins'])} bins of equal mass: ECE {mass['ece']:.3f}",
    )  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.02), ylabel="accuracy")
