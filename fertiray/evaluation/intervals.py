"""Confidence intervals for fractions, for prevalences and for differences of fractions.

Every function works element by element on numpy arrays (or anything that becomes one), so that a
whole column of patients is one call. Counts may be whole or real numbers (a planned sample is
real). Where nothing was counted (n = 0) the answer is NaN: unknown, never zero.

Wilson: E. B. Wilson, JASA 22:209-212, 1927. Newcombe: R. G. Newcombe, Statistics in Medicine
17:873-890, 1998, method 10. Prevalence: W. J. Rogan and B. Gladen, American Journal of
Epidemiology 107:71-76, 1978; its interval: Z. Lang and J. Reiczigel, Preventive Veterinary
Medicine 113:13-22, 2014.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from fertiray.errors import InputError

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """Lower and upper limits, float64 arrays of the shape of the counts; NaN where n = 0."""

    low: Floats
    high: Floats


@dataclass(frozen=True)
class Accuracy:
    """How a classifier did on labelled crops it was not trained on.

    Attributes:
        sensitivity: share of truly positive crops called positive, in [0, 1].
        specificity: share of truly negative crops called negative, in [0, 1].
        n_positive: how many positive crops the sensitivity was measured on; None if not known.
        n_negative: how many negative crops the specificity was measured on; None if not known.
        sensitivity_sd: standard deviation of the sensitivity between patients (``between_sd``).
        specificity_sd: the same for the specificity.
        n_patients: how many patients those crops came from; 0 if not known.

    Raises:
        InputError: a share lies outside [0, 1], or the classifier is no better than chance
            (sensitivity + specificity <= 1), so that no prevalence can be had from it.
    """

    sensitivity: float
    specificity: float
    n_positive: int | None = None
    n_negative: int | None = None
    sensitivity_sd: float = 0.0
    specificity_sd: float = 0.0
    n_patients: int = 0

    def __post_init__(self) -> None:
        for name in ("sensitivity", "specificity"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise InputError(f"{name} is {value}; it must lie between 0 and 1")
        if self.youden <= 0.0:
            raise InputError(
                f"sensitivity {self.sensitivity:.3f} + specificity {self.specificity:.3f} <= 1: "
                "the classifier is no better than chance; train it further or use another one"
            )

    @property
    def youden(self) -> float:
        """Sensitivity + specificity - 1, in (0, 1]."""
        return self.sensitivity + self.specificity - 1.0

    @property
    def counted(self) -> bool:
        """Whether the validation counts are known, and with them the accuracy's uncertainty."""
        return bool(self.n_positive) and bool(self.n_negative)


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf(0.5 + confidence / 2.0)


def _counts(successes: ArrayLike, n: ArrayLike) -> tuple[Floats, Floats]:
    """Both as float64 of one shape, with NaN for n wherever nothing was counted."""
    k, total = np.broadcast_arrays(np.asarray(successes, float), np.asarray(n, float))
    return k, np.where(total > 0, total, np.nan)


def wilson(successes: ArrayLike, n: ArrayLike, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a binomial fraction.

    Args:
        successes: counted positives, 0 <= successes <= n.
        n: counted crops.
        confidence: two-sided level in (0, 1).

    Returns:
        Limits in [0, 1].
    """
    k, total = _counts(successes, n)
    z = _z(confidence)
    p = k / total
    centre = (k + z**2 / 2) / (total + z**2)
    half = z / (total + z**2) * np.sqrt(total * p * (1 - p) + z**2 / 4)
    # At k = 0 and k = n a limit is exactly 0 or 1; rounding must not miss it.
    low = np.where(k == 0, np.where(np.isnan(total), np.nan, 0.0), centre - half)
    high = np.where(k == total, 1.0, centre + half)
    return Interval(low, high)


def newcombe(
    successes_a: ArrayLike,
    n_a: ArrayLike,
    successes_b: ArrayLike,
    n_b: ArrayLike,
    confidence: float = 0.95,
) -> Interval:
    """Newcombe's hybrid score interval of the difference of two independent fractions, a - b.

    Returns:
        Limits in [-1, 1].
    """
    k_a, total_a = _counts(successes_a, n_a)
    k_b, total_b = _counts(successes_b, n_b)
    p_a, p_b = k_a / total_a, k_b / total_b
    a, b = wilson(k_a, total_a, confidence), wilson(k_b, total_b, confidence)
    low = p_a - p_b - np.hypot(p_a - a.low, b.high - p_b)
    high = p_a - p_b + np.hypot(a.high - p_a, p_b - b.low)
    return Interval(low, high)


def rogan_gladen(fraction: ArrayLike, accuracy: Accuracy) -> Floats:
    """True prevalence behind an apparent fraction (Rogan and Gladen 1978), cut to [0, 1].

    prevalence = (fraction + specificity - 1) / (sensitivity + specificity - 1)
    """
    raw = (np.asarray(fraction, float) + accuracy.specificity - 1.0) / accuracy.youden
    return np.clip(raw, 0.0, 1.0)


def between_sd(correct: ArrayLike, groups: ArrayLike) -> float:
    """Standard deviation of a share between groups, beyond what counting explains.

    The moment estimator of the beta-binomial's between-group variance (Kleinman, JASA 68:46-54,
    1973, with weights n_i): with n_i items and share p_i in group i, N items and share p in all,

    variance = (sum n_i (p_i - p)^2 - (k - 1) p (1 - p)) / (N - sum n_i^2 / N), at least 0.

    Args:
        correct: one value per item, 1 or True where it counts.
        groups: the group (patient) of each item.

    Returns:
        The standard deviation, in [0, 1); 0 for fewer than two groups, or groups of one item each,
        where it cannot be told from counting.
    """
    values = np.asarray(correct, float)
    _, place, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    total = len(values)
    if len(sizes) < 2 or len(sizes) == total:
        return 0.0
    shares = np.bincount(place, values) / sizes
    mean = values.mean()
    excess = (sizes * (shares - mean) ** 2).sum() - (len(sizes) - 1) * mean * (1 - mean)
    return float(np.sqrt(max(0.0, excess / (total - (sizes**2).sum() / total))))


def prevalence_interval(
    successes: ArrayLike,
    n: ArrayLike,
    accuracy: Accuracy,
    confidence: float = 0.95,
    *,
    truncate: bool = True,
) -> Interval:
    """Interval of the Rogan-Gladen prevalence.

    With validation counts it carries both the sampling error of the fraction and the uncertainty
    of sensitivity and specificity (Lang and Reiczigel 2014: all three fractions are moved towards
    one half, then a shifted Wald interval is taken). A classifier is not equally good on every
    patient's stain: where it was seen to differ between k patients, a new patient's own
    sensitivity and specificity are one draw more, so (1 + 1/k) times those variances are added and
    Student's t with k - 1 degrees of freedom takes the normal quantile's place. Without counts
    sensitivity and specificity are taken as known and the limits are Wilson's, mapped through
    Rogan and Gladen.

    Args:
        successes: crops called positive.
        n: crops scored.
        accuracy: the classifier's sensitivity and specificity.
        confidence: two-sided level in (0, 1).
        truncate: cut to [0, 1]. Untruncated limits that lie wholly below 0 or above 1 say that
            the fraction cannot come from a classifier of this accuracy.

    Returns:
        Limits of the prevalence. [0, 1] where so few crops were used in validation that the
        adjusted classifier is no better than chance.
    """
    k, total = _counts(successes, n)
    if accuracy.counted:
        low, high = _lang_reiczigel(k, total, accuracy, _quantile(accuracy, confidence))
    else:
        raw = wilson(k, total, confidence)
        low = (raw.low + accuracy.specificity - 1.0) / accuracy.youden
        high = (raw.high + accuracy.specificity - 1.0) / accuracy.youden
    if truncate:
        low, high = np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0)
    return Interval(low, high)


def _quantile(accuracy: Accuracy, confidence: float) -> float:
    differs = accuracy.sensitivity_sd > 0 or accuracy.specificity_sd > 0
    if differs and accuracy.n_patients > 1:
        return float(student.ppf((1 + confidence) / 2, accuracy.n_patients - 1))
    return _z(confidence)


def _lang_reiczigel(k: Floats, n: Floats, accuracy: Accuracy, z: float) -> tuple[Floats, Floats]:
    n_positive, n_negative = float(accuracy.n_positive or 0), float(accuracy.n_negative or 0)
    size_se, size_sp, size = n_positive + 2, n_negative + 2, n + z**2
    se = (n_positive * accuracy.sensitivity + 1) / size_se
    sp = (n_negative * accuracy.specificity + 1) / size_sp
    apparent = (k + z**2 / 2) / size
    youden = se + sp - 1
    if youden <= 0:
        unknown = np.where(np.isnan(n), np.nan, 0.0)
        return unknown, unknown + 1.0
    prevalence = (apparent + sp - 1) / youden
    new = 1 + 1 / accuracy.n_patients if accuracy.n_patients else 1.0
    var_se = se * (1 - se) / size_se + new * accuracy.sensitivity_sd**2
    var_sp = sp * (1 - sp) / size_sp + new * accuracy.specificity_sd**2
    shift = 2 * z**2 * (prevalence * var_se - (1 - prevalence) * var_sp)
    variance = (
        apparent * (1 - apparent) / size + prevalence**2 * var_se + (1 - prevalence) ** 2 * var_sp
    ) / youden**2
    half = z * np.sqrt(variance)
    return prevalence + shift - half, prevalence + shift + half
