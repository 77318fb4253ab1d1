"""When a patient's question is decided before all their crops have been looked at.

The question is what the verdict would be if every crop were scored. A patient's crops are finite in
number and looked at without replacement, a shard at a time, so what is not known is a whole number:
the positives among all of them. A confidence sequence gives limits for it that hold at every look
at once. The patient is decided as soon as the verdict on the crops scored so far is also the
verdict that both limits would give: above, below, or indeterminate because not even all crops
together would settle it.

Why not Wald's sequential probability ratio test: it decides between two simple hypotheses on either
side of the threshold, so it needs a zone of indifference around it, promises nothing within that
zone, and cannot say "indeterminate". Here no such margin is needed. All crops are the end of the
sequence, where the limits meet; the corrected prevalence, its interval and the clinical threshold
come in by the verdict itself, computed as for a run that scores everything.

The limits: for one slide with N crops, K of them positive, k of the n looked at positive,

    R(K) = BetaBinomial(k; n, a, b) / Hypergeometric(k; N, K, n)

is, at the true K, a martingale that starts at 1, the prior-posterior ratio of I. Waudby-Smith and
A. Ramdas, "Confidence sequences for sampling without replacement", NeurIPS 2020, theorem 3.1. By
Ville's inequality it ever reaches 1/alpha with a probability of at most alpha, whenever one looks
and whatever the size of a shard. The product of the slides' ratios is a martingale too, in whatever
order the slides take turns; its limits for the sum of their K need no correction for several slides
and let slides differ from each other as they like.

Assumed: within a slide the crops come in random order. Shards are taken in a random order, but a
shard is a run of neighbouring crops: where fields of one slide differ by more than chance, the
rates need not hold. ``fertiray bench adaptive`` simulates it: with shares that vary by 20% between
shards of a slide they nearly held, with 40% they did not. A crop that cannot be scored counts as
not there; those not looked at are taken as usable.

Shapes: S slides of a patient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, exp, floor, log

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import betabinom, hypergeom

from fertiray.errors import InputError
from fertiray.evaluation.intervals import Interval, prevalence_interval, wilson
from fertiray.scoring.aggregate import VerdictOn
from fertiray.scoring.verdicts import ModelInfo, side

# Of the share of positives: most mass below a third. Decides how soon a patient is decided, never
# how often wrongly.
PRIOR = (0.5, 4.0)
# Of the multiplier, in crops per unit of log ratio. An optimum outside only widens the limits.
MULTIPLIERS = (1e-3, 1e7)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Adaptive:
    """Error rates at which scoring a patient stops early.

    A verdict other than that of scoring every crop is given to at most ``max(alpha, beta)`` of
    patients. The default is low because it costs little: the crops needed grow with its logarithm,
    and a shard of some thousand crops is looked at anyway.

    Attributes:
        alpha: chance that the lower limit ever lies above the true count: of a verdict that is too
            high.
        beta: the same for the upper limit: of a verdict that is too low.

    Raises:
        InputError: one of them is not between 0 and 1.
    """

    alpha: float = 0.01
    beta: float = 0.01

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise InputError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")


def settled(
    positive: Sequence[int],
    scored: Sequence[int],
    unseen: Sequence[int],
    model: ModelInfo,
    rates: Adaptive,
    verdict_on: VerdictOn,
) -> bool:
    """Whether a patient's verdict by one model is decided.

    Args:
        positive: positive crops so far, one count a slide (S).
        scored: scored crops so far (S).
        unseen: crops not looked at yet (S).
        model: gives threshold and accuracy.
        rates: the error rates.
        verdict_on: what the verdict follows.
    """
    left = sum(unseen)
    if left == 0:
        return True
    if sum(scored) == 0:
        return False
    rows = np.add(scored, unseen)
    low, high = total_limits(positive, scored, rows.tolist(), rates.alpha, rates.beta)
    total = sum(scored) + left
    words = verdicts([sum(positive), low, high], [sum(scored), total, total], model, verdict_on)
    return len(set(words)) == 1


def verdicts(
    positive: ArrayLike, scored: ArrayLike, model: ModelInfo, verdict_on: VerdictOn
) -> list[str]:
    """The verdict that :func:`fertiray.scoring.aggregate.aggregate` gives to each pair of counts.

    Args:
        positive: positive crops.
        scored: scored crops, above 0.
        model: gives threshold and accuracy.
        verdict_on: what the verdict follows.
    """
    k, n = np.asarray(positive, float), np.asarray(scored, float)
    if verdict_on == "prevalence" and model.accuracy is not None:
        limits = prevalence_interval(k, n, model.accuracy)
    elif verdict_on == "fraction" and model.task == "zona":
        limits = Interval(k / n, k / n)
    else:
        limits = wilson(k, n)
    frame = pl.DataFrame({"low": limits.low, "high": limits.high})
    return frame.select(side(pl.col("low"), pl.col("high"), model)).to_series().to_list()


def total_limits(
    positive: Sequence[int],
    scored: Sequence[int],
    rows: Sequence[int],
    alpha: float,
    beta: float,
) -> tuple[int, int]:
    """Limits of all positives of a patient that hold at every look at once.

    They are the least and the largest sum of K over the slides for which the product of the ratios
    stays below 1/alpha (below 1/beta). Each slide's log ratio is convex in K, so both are found by
    Lagrange's dual, whose every value is a valid limit.

    Args:
        positive: positive crops so far (S).
        scored: scored crops so far (S).
        rows: all crops (S).
        alpha: error rate of the lower limit.
        beta: error rate of the upper limit.
    """
    slides = [_Slide(*counts) for counts in zip(positive, scored, rows, strict=True)]

    def lower(multiplier: float) -> float:
        least = sum(slide.least(multiplier) for slide in slides)
        return least - multiplier * log(1 / alpha)

    def upper(multiplier: float) -> float:
        most = sum(slide.most(multiplier) for slide in slides)
        return -(most + multiplier * log(1 / beta))

    low, high = _largest(lower), -_largest(upper)
    surely, possibly = sum(positive), sum(positive) + sum(rows) - sum(scored)
    return max(surely, ceil(low - 1e-6)), min(possibly, floor(high + 1e-6))


def _largest(concave: Callable[[float], float]) -> float:
    found = minimize_scalar(
        lambda exponent: -concave(exp(exponent)),
        bounds=(log(MULTIPLIERS[0]), log(MULTIPLIERS[1])),
        method="bounded",
        options={"xatol": 1e-3},
    )
    return -float(found.fun)


class _Slide:
    """log R(K) of one slide for every K that its counts allow, and its slope, which rises."""

    def __init__(self, positive: int, scored: int, rows: int) -> None:
        negative = scored - positive
        self.totals: Floats = np.arange(positive, rows - negative + 1, dtype=np.float64)
        before = self.totals[:-1]
        self.slope: Floats = np.log1p(-positive / (before + 1)) - np.log1p(
            -negative / (rows - before)
        )
        start = betabinom.logpmf(positive, scored, *PRIOR) - hypergeom.logpmf(
            positive, rows, positive, scored
        )
        self.ratio: Floats = start + np.concatenate([[0.0], np.cumsum(self.slope)])

    def least(self, multiplier: float) -> float:
        """The least K + multiplier * log R(K)."""
        place = np.searchsorted(self.slope, -1 / multiplier)
        return float(self.totals[place] + multiplier * self.ratio[place])

    def most(self, multiplier: float) -> float:
        """The largest K - multiplier * log R(K)."""
        place = np.searchsorted(self.slope, 1 / multiplier)
        return float(self.totals[place] - multiplier * self.ratio[place])
