"""ROC and precision-recall curves with bootstrap bands.

Shapes: N images, K classes, R resamples, G points of the grid, B blocks of equal scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from fertiray.evaluation.bootstrap import draws, ranked
from fertiray.evaluation.figures.look import DOUBLE, GREY, INK, blank, colours, letter, look
from fertiray.evaluation.roc import newcombe_auc

Floats = NDArray[np.float64]
GRID = np.linspace(0, 1, 201)
MACRO = "macro average"


@dataclass(frozen=True)
class Curve:
    """One curve and its uncertainty.

    Attributes:
        name: of the class, or ``MACRO``.
        x: its points; rising.
        y: its points.
        low: of the pointwise 95% band, at :data:`GRID`; None where there is none: one group, or
            no resample with a wrong order.
        high: see ``low``.
        area: under the curve: AUC, or average precision.
        ci: 95% limits of the area: the bootstrap's, or Newcombe's of an AUC whose resamples are
            all alike; None where there are none.
    """

    name: str
    x: Floats
    y: Floats
    low: Floats | None
    high: Floats | None
    area: float
    ci: tuple[float, float] | None

    @property
    def label(self) -> str:
        """``Normal 0.870 (0.835 to 0.902)``."""
        limits = "" if self.ci is None else f" ({self.ci[0]:.3f} to {self.ci[1]:.3f})"
        return f"{self.name} {self.area:.3f}{limits}"


@dataclass(frozen=True)
class Curves:
    """ROC and precision-recall curves; classes that do not occur, or alone do, have none.

    Attributes:
        roc: x is 1 - specificity, y sensitivity.
        pr: x is recall, y precision.
        prevalence: share of the images by class.
    """

    roc: list[Curve]
    pr: list[Curve]
    prevalence: dict[str, float]


def curves(
    probabilities: ArrayLike,
    labels: ArrayLike,
    classes: Sequence[str],
    positive: str | None = None,
    *,
    groups: ArrayLike | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> Curves:
    """One class against the rest, for the positive class of two, or for each of more.

    With more than two classes, all of which occur, there is a mean curve too: of the sensitivities
    at each 1 - specificity, of the precisions at each recall. Its area is the mean of the classes'
    own.

    Args:
        probabilities: N x K floats, rows sum to 1; N >= 1.
        labels: N true class indices.
        classes: names of the K classes.
        positive: of two classes; the second by default.
        groups: N values, drawn whole; images are drawn by default.
        seed: of the bootstrap; the draws are those of
            :func:`fertiray.evaluation.bootstrap.bootstrap`.
        resamples: of the bootstrap.
    """
    scores, truth = np.asarray(probabilities, np.float64), np.asarray(labels, np.int64)
    chosen = list(range(len(classes)))
    if len(classes) == 2:
        chosen = [1 if positive is None else list(classes).index(positive)]
    chosen = [k for k in chosen if 0 < np.mean(truth == k) < 1]
    whole = np.ones((1, len(truth)))
    resampled = list(draws(len(truth), groups, seed, resamples))
    roc: list[Curve] = []
    pr: list[Curve] = []
    measured, drawn = [], []
    for k in chosen:
        own = truth == k
        one = _reweighted(whole, scores[:, k], own)
        none = _Reweighted(*(part[:0] for part in one))
        many = [none, *(_reweighted(weights, scores[:, k], own) for weights in resampled)]
        all_draws = _Reweighted(*(np.concatenate(parts) for parts in zip(*many, strict=True)))
        false, true, _ = roc_curve(own, scores[:, k])
        precision, recall, _ = precision_recall_curve(own, scores[:, k])
        certain = newcombe_auc(float(one.auc[0]), int(own.sum()), int((~own).sum()))
        roc.append(_curve(classes[k], false, true, one.auc, all_draws.sensitivity, all_draws.auc,
                          certain))  # fmt: skip
        pr.append(_curve(classes[k], recall[::-1], precision[::-1], one.average,
                         all_draws.precision, all_draws.average))  # fmt: skip
        measured.append(one)
        drawn.append(all_draws)
    if len(chosen) == len(classes) > 2:
        mean, means = _mean(measured), _mean(drawn)
        roc.append(_curve(MACRO, GRID, mean.sensitivity[0], mean.auc, means.sensitivity, means.auc))
        pr.append(
            _curve(MACRO, GRID, mean.precision[0], mean.average, means.precision, means.average)
        )
    return Curves(roc, pr, {classes[k]: float(np.mean(truth == k)) for k in chosen})


@look()
def roc_figure(
    probabilities: ArrayLike,
    labels: ArrayLike,
    classes: Sequence[str],
    positive: str | None = None,
    threshold: float | None = None,
    *,
    groups: ArrayLike | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> Figure:
    """ROC and precision-recall curves side by side, with pointwise 95% bootstrap bands.

    Args:
        probabilities: see :func:`curves`, as all others.
        labels: N true class indices.
        classes: names of the K classes.
        positive: of two classes; the class of the threshold.
        threshold: marked on the positive class's curves; None for no mark.
        groups: N values.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Returns:
        A figure two columns wide.
    """
    found = curves(
        probabilities, labels, classes, positive, groups=groups, seed=seed, resamples=resamples
    )
    colour = {**dict(zip(classes, colours(len(classes)), strict=True)), MACRO: INK}
    figure = blank(DOUBLE, 94 + 4 * len(found.roc))
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color=GREY, linewidth=0.5, linestyle=":")
    for curve in found.roc:
        _draw(left, curve, colour[curve.name], "default")
    for curve in found.pr:
        _draw(right, curve, colour[curve.name], "steps-pre")
    for name, share in found.prevalence.items():
        right.axhline(share, color=colour[name], linewidth=0.5, linestyle=":")
    if found.prevalence:
        right.plot([], [], color=GREY, linewidth=0.5, linestyle=":", label="prevalence")
    if positive in found.prevalence and threshold is not None:
        own = list(classes).index(positive)
        says = np.asarray(probabilities)[:, own] >= threshold
        is_positive = np.asarray(labels) == own
        hits = float(np.mean(says[is_positive]))
        label = f"threshold {threshold:g} ({positive})"
        mark = {"color": colour[positive], "markeredgecolor": INK, "label": label}
        left.plot(float(np.mean(says[~is_positive])), hits, "o", **mark)
        if says.any():
            right.plot(hits, float(np.mean(is_positive[says])), "o", **mark)
    left.set(xlabel="1 − specificity", ylabel="sensitivity")
    right.set(xlabel="recall", ylabel="precision")
    for axes, title in ((left, "AUC (95% CI)"), (right, "average precision (95% CI)")):
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        if axes.get_legend_handles_labels()[1]:
            axes.legend(title=title, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    letter((left, right))
    return figure


class _Reweighted(NamedTuple):
    """Curves at the grid (R x G) and areas (R) of R resamples; NaN where not defined."""

    sensitivity: Floats
    precision: Floats
    auc: Floats
    average: Floats


def _reweighted(weights: Floats, scores: Floats, positive: NDArray[np.bool_]) -> _Reweighted:
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(-scores[order], prepend=-np.inf) > 0)
    own, ordered = positive[order], weights[:, order]
    # R x B, by block of equal scores, falling.
    true = np.cumsum(np.add.reduceat(ordered * own, starts, axis=1), axis=1)
    false = np.cumsum(np.add.reduceat(ordered * ~own, starts, axis=1), axis=1)
    defined = (true[:, -1] > 0) & (false[:, -1] > 0)
    true, false = true[defined], false[defined]
    recall, rate = true / true[:, -1:], false / false[:, -1:]
    called = true + false
    precision = np.divide(true, called, out=np.zeros_like(true), where=called > 0)
    # Blocks above the first image that was drawn.
    first = np.take_along_axis(precision, (called > 0).argmax(1)[:, None], axis=1)
    precision = np.where(called > 0, precision, first)
    # All resamples in one call: each lies on its own stretch of one rising axis.
    apart = 2.0 * np.arange(len(true))[:, None]
    at = GRID + apart
    corner = np.zeros((len(true), 1))
    axis = np.concatenate([corner, rate], 1) + apart
    heights = np.concatenate([corner, recall], 1)
    found = _Reweighted(
        np.full((len(weights), len(GRID)), np.nan),
        np.full((len(weights), len(GRID)), np.nan),
        *ranked(weights, scores, positive),
    )
    found.sensitivity[defined] = np.interp(at, axis.ravel(), heights.ravel())
    # Between two thresholds there is no line to follow: the next one that recalls as much counts.
    reached = np.searchsorted((recall + apart).ravel(), at.ravel())
    found.precision[defined] = precision.ravel()[reached].reshape(at.shape)
    return found


def _mean(parts: Sequence[_Reweighted]) -> _Reweighted:
    return _Reweighted(*(np.mean(own, axis=0) for own in zip(*parts, strict=True)))


def _curve(
    name: str,
    x: Floats,
    y: Floats,
    area: Floats,
    band: Floats,
    areas: Floats,
    certain: Sequence[float] | None = None,
) -> Curve:
    """With the percentiles of the resamples in which the curve is defined.

    Where no resample has a wrong order the bootstrap knows of no doubt; ``certain`` are the limits
    of the area then.
    """
    known = np.isfinite(areas)
    if not known.any():
        return Curve(name, x, y, None, None, float(area[0]), None)
    low, high = np.percentile(areas[known], [2.5, 97.5])
    if low == high:
        limits = None if certain is None else (certain[0], certain[1])
        return Curve(name, x, y, None, None, float(area[0]), limits)
    below, above = np.percentile(band[known], [2.5, 97.5], axis=0)
    return Curve(name, x, y, below, above, float(area[0]), (float(low), float(high)))


def _draw(axes: Axes, curve: Curve, colour: str, steps: Literal["default", "steps-pre"]) -> None:
    width = 1.4 if curve.name == MACRO else 1.0
    axes.plot(curve.x, curve.y, color=colour, linewidth=width, drawstyle=steps, label=curve.label)
    if curve.low is not None and curve.high is not None:
        axes.fill_between(GRID, curve.low, curve.high, color=colour, alpha=0.12, linewidth=0)
