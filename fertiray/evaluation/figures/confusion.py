"""Who was taken for whom."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from fertiray.evaluation.figures.look import DOUBLE, SINGLE, blank, colours, look

DARKEST = "#00324F"
ROOM = 30  # letters that stand side by side below the columns


@look()
def confusion_figure(confusion: ArrayLike, classes: Sequence[str]) -> Figure:
    """A confusion matrix with counts and row percentages.

    Args:
        confusion: K x K counts, rows are the truth.
        classes: names of the K classes.

    Returns:
        A figure one column wide, two for more than six classes. A row without images has no
        percentages.
    """
    counts = np.asarray(confusion, np.int64)
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    k = len(classes)
    width = SINGLE if k <= 6 else DOUBLE
    figure = blank(width, min(0.9 * width, 30 + 18 * k))
    axes = figure.subplots()
    shades = LinearSegmentedColormap.from_list("shares", ["#FFFFFF", colours(1)[0], DARKEST])
    axes.imshow(shares, cmap=shades, vmin=0, vmax=1)
    for i, j in np.ndindex(k, k):
        text = f"{counts[i, j]}\n{shares[i, j]:.0%}" if totals[i] else f"{counts[i, j]}"
        ink = _ink(to_rgb(shades(float(shares[i, j]))))
        axes.text(j, i, text, ha="center", va="center", color=ink)
    axes.set_xticks(range(k), list(classes))
    if k * max(map(len, classes)) > ROOM:
        for name in axes.get_xticklabels():
            name.set(rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(k), [f"{name}\nn = {totals[i, 0]}" for i, name in enumerate(classes)])
    axes.set(xlabel="called", ylabel="truth")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def _ink(background: tuple[float, float, float]) -> str:
    """Black or white, whichever has the greater contrast (WCAG 2.2), which is 4.5 or more."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in background]
    luminance = float(np.dot((0.2126, 0.7152, 0.0722), linear))
    return "black" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "white"
