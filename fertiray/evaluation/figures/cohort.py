"""What a clinic asks of a patient's share: does it differ between outcomes, and can it tell them?

The figures of the zona paper: shares by fertilisation group, the ROC curve of the share, and the
share against the fertilisation rate.

Shapes: N patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from fertiray.evaluation.figures.look import (
    GREY,
    INK,
    SINGLE,
    blank,
    colours,
    look,
    markers,
    p_text,
)
from fertiray.evaluation.groups import correlate
from fertiray.evaluation.roc import at_threshold, auc, roc_points, youden

SHARE = "share of crops called positive"


@look()
def groups_figure(
    groups: Mapping[str, ArrayLike],
    pairs: Sequence[Mapping[str, Any]] = (),
    threshold: float | None = None,
    *,
    label: str = SHARE,
) -> Figure:
    """Box and every patient, by group, with brackets for the pairs that were compared.

    Args:
        groups: shares in [0, 1] by group, in order; NaN for patients without one, which are left
            out.
        pairs: ``a``, ``b`` (names) and ``p_holm``, as
            :func:`fertiray.evaluation.groups.compare_groups` returns them; a pair whose p is None
            gets no bracket.
        threshold: the clinical threshold, drawn across; None for no line.
        label: of the axis.

    Returns:
        A figure one column wide.
    """
    values = [_known(own) for own in groups.values()]
    places, jitter = range(len(values)), np.random.default_rng(0)
    figure = blank(SINGLE, 80)
    axes = figure.subplots()
    axes.boxplot(
        values, positions=list(places), widths=0.55, showfliers=False,
        medianprops={"color": INK, "linewidth": 1.2}, boxprops={"linewidth": 0.6},
        whiskerprops={"linewidth": 0.6}, capprops={"linewidth": 0.6},
    )  # fmt: skip
    for place, own, colour in zip(places, values, colours(len(values)), strict=True):
        spread = place + jitter.uniform(-0.18, 0.18, len(own))
        axes.plot(spread, own, "o", color=colour, markersize=2.6, alpha=0.75, markeredgewidth=0)
    if threshold is not None:
        axes.axhline(threshold, color=GREY, linewidth=0.7, linestyle="--", zorder=0)
        axes.annotate(
            f"{threshold:.1%}", (1.03, threshold), xycoords=("axes fraction", "data"), va="center"
        )
    highest = max((float(own.max()) for own in values if len(own)), default=0.0)
    top, step = max(highest, threshold or 0.0, 0.01), 0.1
    names = list(groups)
    shown = [pair for pair in pairs if pair["p_holm"] is not None]
    # Short brackets below long ones.
    shown.sort(key=lambda pair: abs(names.index(pair["b"]) - names.index(pair["a"])))
    for level, pair in enumerate(shown):
        left, right = names.index(pair["a"]), names.index(pair["b"])
        y = top * (1.06 + step * level)
        foot = y - 0.02 * top
        axes.plot([left, left, right, right], [foot, y, y, foot], color=INK, linewidth=0.5)
        text = p_text(pair["p_holm"])
        axes.annotate(
            text,
            ((left + right) / 2, y),
            (0, 1),
            textcoords="offset points",
            ha="center",
            va="bottom",
        )
    ticks = [f"{fill(name, 14)}\nn = {len(own)}" for name, own in zip(names, values, strict=True)]
    axes.set_xticks(places, ticks)
    axes.set(ylim=(-0.02 * top, top * (1.08 + step * len(shown))), ylabel=label)
    axes.yaxis.set_major_formatter(_percent)
    return figure


@look()
def cohort_roc_figure(
    values: ArrayLike, positive: ArrayLike, threshold: float | None = None, *, seed: int = 0
) -> Figure:
    """ROC curve of the patients' share, with Youden's point and a threshold stated beforehand.

    Args:
        values: N shares in [0, 1]; NaN for patients without one, which are left out.
        positive: N booleans, the outcome that a high share speaks for.
        threshold: stated beforehand, judged here; None for no mark.
        seed: of the bootstrap of Youden's threshold.

    Returns:
        A figure one column wide.

    Raises:
        InputError: patients of one outcome only.
    """
    shares = np.asarray(values, np.float64)
    known = np.isfinite(shares)
    x, y = shares[known], np.asarray(positive, bool)[known]
    curve, area = roc_points(x, y), auc(x, y)
    best = youden(x, y, seed=seed)
    low, high = best["threshold_ci"]
    marks = [(f"Youden: above {best['threshold']:.1%} (95% CI {low:.1%} to {high:.1%})", best)]
    if threshold is not None:
        marks.append((f"stated: above {threshold:.1%}", at_threshold(x, y, threshold)))
    blue, orange = colours(2)
    figure = blank(SINGLE, 104)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.5, linestyle=":")
    axes.plot(
        1 - np.array(curve["specificity"]), curve["sensitivity"], color=blue, clip_on=False,
        label="AUC {auc:.3f} ({ci[0]:.3f} to {ci[1]:.3f}, {ci_method})".format(**area),
    )  # fmt: skip
    # Where both thresholds sort alike, one mark lies within the other.
    kinds = (("o", 4.5, "full", blue), ("s", 8, "none", orange))
    for (text, point), (marker, size, fill_style, colour) in zip(marks, kinds, strict=False):
        axes.plot(
            1 - point["specificity"]["share"], point["sensitivity"]["share"], marker,
            markersize=size, fillstyle=fill_style, color=colour, clip_on=False, linestyle="",
            label=f"{text}\nsensitivity {_counted(point['sensitivity'])},"
            f" specificity {_counted(point['specificity'])}",
        )  # fmt: skip
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.set(xlabel="1 − specificity", ylabel="sensitivity")
    title = "{n_positive} patients with the outcome, {n_negative} without".format(**area)
    figure.legend(loc="outside lower center", title=title)
    return figure


@look()
def rate_figure(
    values: ArrayLike,
    rates: ArrayLike,
    threshold: float | None = None,
    *,
    groups: Sequence[str] | None = None,
    label: str = SHARE,
) -> Figure:
    """Each patient's share against the fertilisation rate.

    Args:
        values: N shares in [0, 1].
        rates: N fertilisation rates in [0, 1]; patients without either are left out.
        threshold: of the share, drawn across; None for no line.
        groups: N names, for colours and markers; None for none.
        label: of the share's axis.

    Returns:
        A figure one column wide; its title gives Spearman's correlation.
    """
    shares, outcome = np.asarray(values, np.float64), np.asarray(rates, np.float64)
    known = np.isfinite(shares) & np.isfinite(outcome)
    names = np.full(len(shares), "") if groups is None else np.asarray(groups)
    kinds = list(dict.fromkeys(names[known].tolist()))
    figure = blank(SINGLE, 76 if groups is None else 88)
    axes = figure.subplots()
    marks = zip(kinds, colours(len(kinds)), markers(len(kinds)), strict=True)
    for name, colour, marker in marks:
        own = known & (names == name)
        axes.plot(
            outcome[own], shares[own], marker, color=colour, linestyle="", alpha=0.8,
            markeredgewidth=0, markersize=4, clip_on=False, label=f"{name} (n = {own.sum()})",
        )  # fmt: skip
    if threshold is not None:
        axes.axhline(threshold, color=GREY, linewidth=0.7, linestyle="--", zorder=0)
        axes.annotate(
            f"{threshold:.1%}", (1.03, threshold), xycoords=("axes fraction", "data"), va="center"
        )
    rho = correlate(shares[known], outcome[known])["spearman"]
    if rho["r"] is not None:
        text = f"Spearman's ρ {rho['r']:.2f}"
        if rho["ci"] is not None:
            text += f" ({rho['ci'][0]:.2f} to {rho['ci'][1]:.2f})"
        axes.set_title(f"{text}, {p_text(rho['p'])}, n = {known.sum()}", fontsize=7)
    axes.set(xlim=(-0.02, 1.02), xlabel="fertilisation rate", ylabel=label)
    axes.set_ylim(bottom=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_percent)
    if groups is not None:
        columns = len(kinds) if sum(map(len, kinds)) < 30 else 1
        figure.legend(loc="outside lower center", ncols=columns, handletextpad=0.2)
    return figure


def _percent(share: float, place: float) -> str:
    del place
    return f"{100 * share:g}%"


def _known(values: ArrayLike) -> NDArray[np.float64]:
    own = np.asarray(values, np.float64)
    return own[np.isfinite(own)]


def _counted(share: Mapping[str, Any]) -> str:
    return f"{share['share']:.1%} ({share['hits']}/{share['n']})"
