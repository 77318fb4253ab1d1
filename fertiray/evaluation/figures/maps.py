"""Where a network looks: crops with their heatmaps, and whether the heatmaps can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fertiray.evaluation.explain.overlay import COLOURS, overlay
from fertiray.evaluation.figures.look import DOUBLE, GREY, blank, colours, look, markers

LABEL = 24.0  # mm that the row's label takes
WIDEST = 26.0  # mm of a picture


@look()
def maps_figure(
    crops: NDArray[np.uint8], heats: Mapping[str, NDArray[np.floating]], titles: Sequence[str]
) -> Figure:
    """A row for each crop: the crop itself, then with the heat of each layer over it.

    Args:
        crops: N x S x S x 3 uint8 RGB; N >= 1.
        heats: N x S x S in [0, 1] by layer, in order.
        titles: N texts, such as the true and the called class.

    Returns:
        A figure two columns wide.
    """
    columns = 1 + len(heats)
    side = min(WIDEST, (DOUBLE - LABEL - 14) / columns)
    figure = blank(LABEL + 14 + columns * side, 8 + len(crops) * side)
    grid = figure.subplots(len(crops), columns, squeeze=False)
    for row, (axes, crop, title) in enumerate(zip(grid, crops, titles, strict=True)):
        pictures = [crop, *(overlay(crop, heat[row]) for heat in heats.values())]
        for own, picture in zip(axes, pictures, strict=True):
            own.imshow(picture)
            own.set(xticks=[], yticks=[])
            own.spines[:].set_visible(False)
        axes[0].set_ylabel(title, rotation=0, ha="right", va="center")
    for own, name in zip(grid[0], ("crop", *heats), strict=True):
        own.set_title(name, fontsize=7)
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    bar = figure.colorbar(ScalarMappable(cmap=COLOURS), ax=grid, shrink=0.5, aspect=25, pad=0.01)
    bar.set_ticks([0, 1], labels=["least", "most"])
    bar.outline.set_visible(False)
    return figure


@look()
def sanity_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """How far heatmaps change when the network forgets: correlation by what is randomised.

    Args:
        rows: of :func:`fertiray.evaluation.explain.sanity.sanity`, in its order; at least one.

    Returns:
        A figure two columns wide: mean and standard deviation over images, a line for each layer,
        with gaps where no image's map varies.
    """
    steps = list(dict.fromkeys(row["randomised"] for row in rows))
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    figure = blank(DOUBLE, 74)
    axes = figure.subplots()
    axes.axhline(0, color=GREY, linewidth=0.5, linestyle=":")
    marks = zip(layers, colours(len(layers)), markers(len(layers)), strict=True)
    for number, (layer, colour, marker) in enumerate(marks):
        own = [row for row in rows if row["layer"] == layer]
        apart = 0.08 * (number - (len(layers) - 1) / 2)
        x = [steps.index(row["randomised"]) + apart for row in own]
        mean, sd = (np.array([row[key] for row in own], np.float64) for key in ("mean", "sd"))
        axes.errorbar(
            x, mean, np.nan_to_num(sd), color=colour, marker=marker, linewidth=0.8,
            elinewidth=0.5, label=layer if np.isfinite(mean).any() else f"{layer} (not defined)",
        )  # fmt: skip
    axes.set_xticks(range(len(steps)), steps, rotation=40, ha="right", rotation_mode="anchor")
    axes.set(ylim=(-1.05, 1.05), ylabel="Pearson's r with the trained network's maps")
    axes.set_xlabel("randomised from the head down to")
    figure.legend(loc="outside right upper", title="layer")
    return figure
