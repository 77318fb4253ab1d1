"""Groups of patients side by side: how each is spread, which differ, what goes with what.

As Leung et al. (the zona paper) do: the normality of each group decides between the unpaired
two-tailed t-test and Mann and Whitney's; the other tests are given beside the one that counts.
Values are plain numbers, at least one a group, none missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

from fertiray.errors import InputError
from fertiray.evaluation.intervals import wilson

Floats = NDArray[np.float64]

NORMALITY_LEVEL = 0.05
"""A group whose Shapiro-Wilk p lies below this is not taken for normal."""


def numbers(values: ArrayLike) -> Floats:
    """One-dimensional float64.

    Raises:
        InputError: no values, or one that is not a finite number.
    """
    found = np.asarray(values, np.float64)
    if not found.size or not np.isfinite(found).all():
        raise InputError(
            f"{found.size} values, {int((~np.isfinite(found)).sum())} of them not numbers:"
            " leave out patients without a value"
        )
    return found


def share(hits: int, total: int) -> dict[str, Any]:
    """A counted share with Wilson's 95% interval; None where nothing was counted.

    Returns:
        ``hits``, ``n``, ``share``, ``ci``.
    """
    low, high = wilson(hits, total)
    return {
        "hits": int(hits),
        "n": int(total),
        "share": hits / total if total else None,
        "ci": [float(low), float(high)] if total else None,
    }


def describe(values: ArrayLike) -> dict[str, Any]:
    """A group of patients in numbers.

    Args:
        values: N values.

    Returns:
        ``n``, ``mean``, ``sd`` (ddof 1), ``sem`` (sd / sqrt n), ``median``, ``q1``, ``q3`` (by
        linear interpolation), ``min``, ``max``; ``shapiro_p`` and ``normal`` (p at least .05). The
        spread is None for one value; normality is None for fewer than three or all equal ones.

    Raises:
        InputError: see :func:`numbers`.
    """
    x = numbers(values)
    n = len(x)
    sd = float(x.std(ddof=1)) if n > 1 else None
    q1, median, q3 = (float(q) for q in np.quantile(x, [0.25, 0.5, 0.75]))
    p = float(stats.shapiro(x).pvalue) if n > 2 and np.ptp(x) > 0 else None
    return {
        "n": n,
        "mean": float(x.mean()),
        "sd": sd,
        "sem": None if sd is None else sd / n**0.5,
        "median": median,
        "q1": q1,
        "q3": q3,
        "min": float(x.min()),
        "max": float(x.max()),
        "shapiro_p": p,
        "normal": None if p is None else p >= NORMALITY_LEVEL,
    }


def compare(a: ArrayLike, b: ArrayLike) -> dict[str, Any]:
    """Two groups: Student's t-test where both are normal, else Mann and Whitney's.

    Args:
        a: N values.
        b: M values, of other patients.

    Returns:
        ``test``, ``p`` (two-sided, of that test); ``difference`` of the means, a - b; ``student``
        (equal variances) and ``welch``, each with ``t``, ``df``, ``p`` and ``ci`` of the
        difference; ``mann_whitney`` with ``u`` of a and ``p`` (exact up to 8 values without ties,
        else normal with correction for ties). What cannot be had is None: a t-test without any
        spread or with fewer than two values in a group.

    Raises:
        InputError: see :func:`numbers`.
    """
    x, y = numbers(a), numbers(b)
    rank = stats.mannwhitneyu(x, y)
    normal = describe(x)["normal"] and describe(y)["normal"]
    found: dict[str, Any] = {
        "difference": float(x.mean() - y.mean()),
        "student": _t_test(x, y, equal=True),
        "welch": _t_test(x, y, equal=False),
        "mann_whitney": {"u": float(rank.statistic), "p": float(rank.pvalue)},
    }
    key = "student" if normal else "mann_whitney"
    return {"test": "Student's t" if normal else "Mann-Whitney", "p": found[key]["p"], **found}


def _t_test(x: Floats, y: Floats, *, equal: bool) -> dict[str, Any]:
    if min(len(x), len(y)) < 2 or np.ptp(x) == np.ptp(y) == 0:
        return {"t": None, "df": None, "p": None, "ci": None}
    found = stats.ttest_ind(x, y, equal_var=equal)
    low, high = found.confidence_interval(0.95)
    return {
        "t": float(found.statistic),
        "df": float(found.df),
        "p": float(found.pvalue),
        "ci": [float(low), float(high)],
    }


def compare_groups(groups: Mapping[str, ArrayLike]) -> dict[str, Any]:
    """All groups and all their pairs.

    Args:
        groups: values by name, at least two groups.

    Returns:
        ``groups``: :func:`describe` by name. ``pairs``: :func:`compare` of every two, in order,
        with ``a`` and ``b`` (names) and ``p_holm``, their p adjusted for the number of pairs (Holm,
        Scandinavian Journal of Statistics 6:65-70, 1979).

    Raises:
        InputError: see :func:`numbers`.
    """
    pairs = [{"a": a, "b": b, **compare(groups[a], groups[b])} for a, b in combinations(groups, 2)]
    adjusted = holm([pair["p"] for pair in pairs])
    return {
        "groups": {name: describe(values) for name, values in groups.items()},
        "pairs": [{**pair, "p_holm": p_holm} for pair, p_holm in zip(pairs, adjusted, strict=True)],
    }


def holm(p: list[float | None]) -> list[float | None]:
    """Holm's adjusted p-values; those that are None stay so and do not count."""
    known = [value for value in p if value is not None]
    adjusted = iter(multipletests(known, method="holm")[1] if known else [])
    return [None if value is None else float(next(adjusted)) for value in p]


def correlate(x: ArrayLike, y: ArrayLike) -> dict[str, Any]:
    """Pearson's and Spearman's correlation, with 95% intervals by Fisher's z.

    The standard error of z is 1 / sqrt(n - 3) for Pearson's and sqrt((1 + r^2 / 2) / (n - 3)) for
    Spearman's (Bonett and Wright, Psychometrika 65:23-28, 2000).

    Args:
        x: N values.
        y: N values of the same patients.

    Returns:
        ``n``; ``pearson`` and ``spearman``, each with ``r``, ``ci`` and two-sided ``p``; None with
        fewer than three patients or without spread, the interval alone with three patients or
        where all lie on one line.

    Raises:
        InputError: see :func:`numbers`.
    """
    a, b = numbers(x), numbers(y)
    n = len(a)
    found: dict[str, Any] = {"n": n}
    for name, method in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        if n < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
            found[name] = {"r": None, "ci": None, "p": None}
            continue
        result = method(a, b)
        r = float(result.statistic)
        widening = 1 + r**2 / 2 if name == "spearman" else 1.0
        ci = None
        if n > 3 and abs(r) < 1 - 1e-12:  # on a line but for rounding
            half = float(stats.norm.ppf(0.975)) * (widening / (n - 3)) ** 0.5
            ci = [float(np.tanh(np.arctanh(r) + side * half)) for side in (-1, 1)]
        found[name] = {"r": r, "ci": ci, "p": float(result.pvalue)}
    return found
