"""A value of each patient against an outcome of two kinds: ROC curve, threshold, odds ratio.

A value calls the positive outcome when it lies **above** the threshold; at or below it, it calls
the negative one (Leung et al., the zona paper: at or below 4.9% binding is defective). Thresholds
are values that were observed, so a rule found here is said in numbers that a patient had.

Shapes: N patients, M of them positive and L negative, T different values, R resamples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.optimize import brentq
from statsmodels.discrete.discrete_model import Logit
from statsmodels.tools.tools import add_constant

from fertiray.errors import InputError
from fertiray.evaluation.groups import numbers, share

Floats = NDArray[np.float64]

Z = float(stats.norm.ppf(0.975))


def roc_points(values: ArrayLike, positive: ArrayLike) -> dict[str, list[Any]]:
    """The empirical ROC curve, from (1, 1) to (0, 0).

    Args:
        values: N numbers.
        positive: N booleans.

    Returns:
        T + 1 entries each: ``threshold``, rising (None, then every observed value),
        ``sensitivity`` and ``specificity`` of calling what lies above it. At None all are called.

    Raises:
        InputError: a value is missing, or patients of one outcome only.
    """
    levels, yes, no = _levels(*_checked(values, positive))
    return {
        "threshold": [None, *levels.tolist()],
        "sensitivity": [1.0, *((yes.sum() - np.cumsum(yes)) / yes.sum()).tolist()],
        "specificity": [0.0, *(np.cumsum(no) / no.sum()).tolist()],
    }


def at_threshold(values: ArrayLike, positive: ArrayLike, threshold: float) -> dict[str, Any]:
    """How well a threshold that comes from elsewhere sorts these patients.

    Args:
        values: N numbers.
        positive: N booleans.
        threshold: above it the positive outcome is called.

    Returns:
        ``threshold``; ``sensitivity``, ``specificity`` and ``accuracy``, each with ``hits``, ``n``,
        ``share`` and Wilson's ``ci``; ``youden``, their sum less 1.

    Raises:
        InputError: see :func:`roc_points`.
    """
    x, y = _checked(values, positive)
    above = x > threshold
    sensitivity = share(int((above & y).sum()), int(y.sum()))
    specificity = share(int((~above & ~y).sum()), int((~y).sum()))
    return {
        "threshold": float(threshold),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "accuracy": share(int((above == y).sum()), len(y)),
        "youden": sensitivity["share"] + specificity["share"] - 1,
    }


def youden(
    values: ArrayLike, positive: ArrayLike, *, seed: int = 0, resamples: int = 2000
) -> dict[str, Any]:
    """The observed value that sorts these patients best: Youden's index, Cancer 3:32-35, 1950.

    The threshold is chosen on the patients it is then judged by, so its sensitivity and specificity
    are optimistic, the more the fewer patients there are; Wilson's intervals do not know of the
    choice. Judge it on other patients with :func:`at_threshold`.

    Args:
        values: N numbers.
        positive: N booleans.
        seed: of the bootstrap.
        resamples: of the bootstrap, which draws positives and negatives apart.

    Returns:
        :func:`at_threshold` of the value with the largest sensitivity + specificity - 1, of equal
        ones the lowest, which keeps most sensitivity; ``threshold_ci``, percentiles of the
        threshold chosen anew in every resample, 95%.

    Raises:
        InputError: see :func:`roc_points`.
    """
    x, y = _checked(values, positive)
    levels, yes, no = _levels(x, y)
    best = levels[_best(yes[None], no[None])[0]]
    draw = np.random.default_rng(seed)
    # Drawing patients with replacement is drawing how many have each value: R x T.
    drawn = [draw.multinomial(part.sum(), part / part.sum(), resamples) for part in (yes, no)]
    chosen = levels[_best(*drawn)]
    low, high = np.percentile(chosen, [2.5, 97.5])
    return {**at_threshold(x, y, float(best)), "threshold_ci": [float(low), float(high)]}


def _best(yes: NDArray[np.int64], no: NDArray[np.int64]) -> NDArray[np.intp]:
    """Index of Youden's threshold by row, from R x T counts; whole numbers, so ties are exact."""
    missed, cleared = np.cumsum(yes, 1), np.cumsum(no, 1)
    index = cleared * missed[:, -1:] - missed * cleared[:, -1:]
    return np.asarray(index.argmax(1))


def auc(values: ArrayLike, positive: ArrayLike) -> dict[str, Any]:
    """Area under the ROC curve with DeLong's interval.

    DeLong, DeLong and Clarke-Pearson, Biometrics 44:837-845, 1988, by the ranks of Sun and Xu, IEEE
    Signal Processing Letters 21:1389-1393, 2014. Where the area is 1 (or all values are equal, or
    one patient is alone) that variance is 0 or unknown, which says nothing about other patients;
    then the interval is Newcombe's, see :func:`newcombe_auc`.

    Args:
        values: N numbers; a larger one speaks for the positive outcome, ties count half.
        positive: N booleans.

    Returns:
        ``n_positive``, ``n_negative``; ``auc``; ``se``; ``ci``, 95%, and ``ci_method``: ``DeLong``,
        not transformed, cut to [0, 1], or ``Newcombe``; ``ci_logit``, DeLong's on the logit scale,
        None where there is none; ``p``, two-sided, against 0.5 (Mann and Whitney).

    Raises:
        InputError: see :func:`roc_points`.
    """
    x, y = _checked(values, positive)
    area, covariance = _delong(x[None], y)
    estimate, n_positive, n_negative = float(area[0]), int(y.sum()), int((~y).sum())
    se = None if covariance is None else float(covariance[0, 0]) ** 0.5
    if se:
        method, ci = "DeLong", [max(0.0, estimate - Z * se), min(1.0, estimate + Z * se)]
    else:
        method, ci = "Newcombe", newcombe_auc(estimate, n_positive, n_negative)
    logit = None
    if se and 0 < estimate < 1:
        centre, half = np.log(estimate / (1 - estimate)), Z * se / (estimate * (1 - estimate))
        logit = [float(1 / (1 + np.exp(-(centre + side * half)))) for side in (-1, 1)]
    return {
        "n_positive": n_positive,
        "n_negative": n_negative,
        "auc": estimate,
        "se": se,
        "ci": ci,
        "ci_method": method,
        "ci_logit": logit,
        "p": float(stats.mannwhitneyu(x[y], x[~y]).pvalue),
    }


def compare_auc(a: ArrayLike, b: ArrayLike, positive: ArrayLike) -> dict[str, Any]:
    """DeLong's test of two values of the same patients.

    Args:
        a: N numbers; a larger one speaks for the positive outcome.
        b: N numbers, the same for the other value.
        positive: N booleans.

    Returns:
        ``auc_a``, ``auc_b``, ``difference`` (a - b), ``se``, ``ci`` (95%), ``z`` and two-sided
        ``p``; the last four are None where the difference does not vary between patients (both
        curves perfect, or the same) or one patient is alone.

    Raises:
        InputError: see :func:`roc_points`.
    """
    x, y = _checked(a, positive)
    areas, covariance = _delong(np.stack([x, numbers(b)]), y)
    difference = float(areas[0] - areas[1])
    found: dict[str, Any] = {
        "auc_a": float(areas[0]),
        "auc_b": float(areas[1]),
        "difference": difference,
        **dict.fromkeys(("se", "ci", "z", "p")),
    }
    if covariance is not None:
        variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
        # Equal placements differ by rounding alone.
        if variance > 1e-14:
            se = variance**0.5
            found |= {
                "se": se,
                "ci": [difference - Z * se, difference + Z * se],
                "z": difference / se,
                "p": float(2 * stats.norm.sf(abs(difference) / se)),
            }
    return found


def _delong(values: Floats, positive: NDArray[np.bool_]) -> tuple[Floats, Floats | None]:
    """Areas of S curves and their S x S covariance; None where one patient is alone.

    Args:
        values: S x N.
        positive: N.
    """
    x, y = values[:, positive], values[:, ~positive]
    m, n = x.shape[1], y.shape[1]
    both = stats.rankdata(np.concatenate([x, y], 1), axis=1)
    # The share of negatives below each positive, and of positives above each negative.
    below = (both[:, :m] - stats.rankdata(x, axis=1)) / n
    above = 1 - (both[:, m:] - stats.rankdata(y, axis=1)) / m
    if min(m, n) < 2:
        return below.mean(1), None
    covariance = np.cov(below) / m + np.cov(above) / n
    return below.mean(1), np.atleast_2d(covariance)


def newcombe_auc(area: float, n_positive: int, n_negative: int) -> list[float]:
    """Newcombe's method 5: a 95% interval that does not vanish where the area is 0 or 1.

    Its limits t solve |area - t| = z sqrt(V(t)), with Hanley and McNeil's variance at
    k = (n_positive + n_negative) / 2 - 1 for both groups (Statistics in Medicine 25:559-573, 2006):

    V(t) = t (1 - t) (1 + k ((1 - t) / (2 - t) + t / (1 + t))) / (n_positive n_negative)
    """
    k, pairs = (n_positive + n_negative) / 2 - 1, n_positive * n_negative

    def lower(area: float) -> float:
        def distance(t: float) -> float:
            spread = 1 + k * ((1 - t) / (2 - t) + t / (1 + t))
            return area - t - Z * float(np.sqrt(t * (1 - t) * spread / pairs))

        # At 1 the equation also holds at t = 1, which is not the limit.
        return float(brentq(distance, 0.0, area * (1 - 1e-9))) if area else 0.0

    return [lower(area), 1 - lower(1 - area)]


def logistic(values: ArrayLike, positive: ArrayLike, per: float = 1.0) -> dict[str, Any]:
    """Logistic regression of the outcome on the value.

    Args:
        values: N numbers.
        positive: N booleans.
        per: the step of the odds ratio; 0.01 for shares, so that it is per percentage point.

    Returns:
        ``n``, ``per``, ``odds_ratio``, ``ci`` (Wald, 95%), ``p`` (Wald); ``reason``, None. Where
        the likelihood has no finite maximum the three are None and ``reason`` says why: all values
        are equal, or one threshold separates the outcomes.

    Raises:
        InputError: see :func:`roc_points`.
    """
    x, y = _checked(values, positive)
    found: dict[str, Any] = {"n": len(x), "per": per, **dict.fromkeys(("odds_ratio", "ci", "p"))}
    if np.ptp(x) == 0:
        return {**found, "reason": "all values are equal"}
    # For one variable the likelihood has no maximum exactly where a threshold separates (Albert
    # and Anderson, Biometrika 71:1-10, 1984).
    if x[~y].max() <= x[y].min() or x[y].max() <= x[~y].min():
        return {**found, "reason": "the value separates the outcomes: no finite odds ratio"}
    fit = Logit(y.astype(np.float64), add_constant(x / per)).fit(disp=False, maxiter=200)
    with np.errstate(over="ignore"):
        ratio, low, high = np.exp([fit.params[1], *fit.conf_int(0.05)[1]])
    if not np.isfinite(high):
        return {**found, "reason": "the value all but separates the outcomes: no usable odds ratio"}
    return {
        **found,
        "odds_ratio": float(ratio),
        "ci": [float(low), float(high)],
        "p": float(fit.pvalues[1]),
        "reason": None,
    }


def _checked(values: ArrayLike, positive: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    x, y = numbers(values), np.asarray(positive, bool)
    if y.all() or not y.any():
        raise InputError(
            f"{int(y.sum())} patients with the outcome and {int((~y).sum())} without: a ROC curve"
            " needs both"
        )
    return x, y


def _levels(x: Floats, y: NDArray[np.bool_]) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """T different values, rising, with how many positives and negatives have each."""
    levels, place = np.unique(x, return_inverse=True)
    yes, no = (np.bincount(place[part], minlength=len(levels)) for part in (y, ~y))
    return levels, yes, no
