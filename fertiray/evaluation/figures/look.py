"""The one look of all figures: sizes, type, colours, and how they are written.

Column widths are those of most journals. Text stays text in the SVG, so that it can be searched and
edited; the typeface is the one that matplotlib brings along, so that a figure is the same on every
machine. Nothing here touches pyplot or matplotlib's global settings.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fertiray import storage
from fertiray.scoring.figures import PALETTE

SINGLE, DOUBLE = 85.0, 174.0  # widths of one and two columns, mm
GREY = "#8A8A8A"
INK = "#222222"
PASSES = 3
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

_MM = 1 / 25.4
_RC: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 7,
    "axes.titlesize": 8,
    "axes.labelsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "axes.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.0,
    "lines.markersize": 3.5,
    "patch.linewidth": 0.5,
    "savefig.dpi": 300,
    "svg.fonttype": "none",
    "svg.hashsalt": "fertiray",
}


@contextmanager
def look() -> Iterator[None]:
    """The look, for the time of a ``with`` block or, as a decorator, of a function."""
    with style.context(["default", _RC]):
        yield


def blank(width: float, height: float) -> Figure:
    """An empty figure that keeps its labels inside.

    Args:
        width: in mm, ``SINGLE`` or ``DOUBLE``.
        height: in mm.
    """
    return Figure(figsize=(width * _MM, height * _MM), layout="constrained")


def colours(count: int) -> list[str]:
    """A colour (``#rrggbb``) for each of so many things, those of the reports."""
    return list(islice(cycle(PALETTE), count))


def markers(count: int) -> list[str]:
    """A marker for each of so many things."""
    return list(islice(cycle(MARKERS), count))


def letter(axes: Sequence[Axes]) -> None:
    """Names panels a, b, c and so on, in bold at their upper left."""
    for place, own in enumerate(axes):
        own.set_title(chr(ord("a") + place), loc="left", fontweight="bold")


def p_text(p: float) -> str:
    """A p value as it is printed: ``p = 0.012``, ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


@look()
def save(figure: Figure, folder: str, name: str) -> list[str]:
    """Writes a figure as SVG and as PNG of 300 dpi; the same figure gives the same bytes.

    Args:
        figure: the figure.
        folder: local path or ``s3://`` URI.
        name: file name without its ending.

    Returns:
        The places of both files.

    Raises:
        InputError: the folder must not be written to.
    """
    # Laid out here, so that both files, and those of a later call, show the same; squares and
    # legends outside of panels need more than one pass.
    for _ in range(PASSES):
        figure.draw_without_rendering()
    figure.set_layout_engine("none")
    # What would differ from day to day or version to version.
    kinds: dict[str, dict[str, Any]] = {"svg": {"Date": None, "Creator": None}, "png": {}}
    kinds["png"]["Software"] = None
    places = []
    for kind, metadata in kinds.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata=metadata)
        place = storage.join(folder, f"{name}.{kind}")
        storage.write_bytes(place, buffer.getvalue())
        places.append(place)
    return places
