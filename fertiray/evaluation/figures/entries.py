"""A figure with its caption and source; the figures that labelled images give, from anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fertiray.evaluation.figures.calibration import reliability_figure
from fertiray.evaluation.figures.confusion import confusion_figure
from fertiray.evaluation.figures.curves import Histories, training_curves
from fertiray.evaluation.figures.roc import roc_figure
from fertiray.evaluation.figures.sources import Graded


class Drawn(NamedTuple):
    """A figure.

    Attributes:
        name: file name without its ending.
        figure: itself.
        caption: what it shows, with its n.
        source: what it was made from.
    """

    name: str
    figure: Figure
    caption: str
    source: str


class LeftOut(NamedTuple):
    """A figure that cannot be had.

    Attributes:
        name: as in :class:`Drawn`.
        why: one line.
    """

    name: str
    why: str


Entry = Drawn | LeftOut


def graded_entries(
    stem: str,
    own: Graded,
    shown: Mapping[str, NDArray[np.float64]],
    about: str,
    source: str,
    seed: int,
) -> Iterator[Entry]:
    """Confusion matrix, ROC and precision-recall curves, reliability.

    Args:
        stem: of the figures' names.
        own: the images.
        shown: probabilities by title, for the reliability diagram; one or two.
        about: how many images of what kind.
        source: of the figures.
        seed: of the bootstrap.
    """
    k = len(own.classes)
    confusion = np.bincount(own.labels * k + own.called, minlength=k * k).reshape(k, k)
    yield Drawn(
        f"{stem}-confusion",
        confusion_figure(confusion, own.classes),
        f"Confusion matrix of {about}: counts, and percentages of the true class.",
        source,
    )
    drawn = "patients or duplicates" if len(np.unique(own.groups)) < len(own.labels) else "images"
    curves = roc_figure(
        own.probabilities, own.labels, own.classes, own.positive, own.threshold,
        groups=own.groups, seed=seed,
    )  # fmt: skip
    yield Drawn(
        f"{stem}-roc",
        curves,
        f"ROC (a) and precision-recall (b) curves of {about}; bands and intervals are 95%, by a"
        f" bootstrap over {drawn}; an AUC of 1 has Newcombe's interval. The dotted lines of b are"
        " the classes' shares of the images.",
        source,
    )
    yield Drawn(
        f"{stem}-calibration",
        reliability_figure(shown, own.labels),
        f"Reliability of {about}: accuracy against confidence, and below how often each confidence"
        " occurs. The larger a point, the more images are in its bin. ECE: expected calibration"
        " error.",
        source,
    )


def curves_entry(
    name: str, histories: Histories, kept: Sequence[int], source: str, missing: str
) -> Entry:
    """Training curves, or what is missing for them.

    Args:
        name: of the figure.
        histories: epoch lines of each training; empty for none.
        kept: the epoch that each kept.
        source: of the figure.
        missing: why there are none.
    """
    if not histories:
        return LeftOut(name, missing)
    which = (
        f"{len(histories)} trainings (thin) and their mean" if len(histories) > 1 else "Training"
    )
    caption = f"{which}: loss, metrics on the validation part and learning rate by epoch."
    return Drawn(name, training_curves(histories, kept), caption, source)
