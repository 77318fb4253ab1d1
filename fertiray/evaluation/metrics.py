"""How well a classifier did: point values, confidence intervals, folds and paired tests.

Shapes: N images, K classes, R bootstrap resamples.

Precision, recall and F1 are macro averages, as the papers report them: over the classes that occur
in the truth or among the calls, with 0 for what is never called (scikit-learn's convention). A
number that cannot be had (a curve without positives) is None. Intervals are 95%: Wilson's for
fractions of images, percentiles of a bootstrap for everything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fertiray.evaluation.bootstrap import Calls, bootstrap, statistics
from fertiray.evaluation.intervals import wilson
from fertiray.models.predict import call

SCALARS = (
    *("accuracy", "macro_precision", "macro_recall", "macro_f1", "roc_auc", "average_precision"),
    *("log_loss", "sensitivity", "specificity"),
)


def measure(
    probabilities: ArrayLike,
    labels: ArrayLike,
    classes: Sequence[str],
    positive: str | None = None,
    threshold: float | None = None,
    *,
    groups: ArrayLike | None = None,
    seed: int = 0,
    resamples: int = 2000,
) -> dict[str, Any]:
    """Metrics of a classifier on labelled images, with 95% confidence intervals.

    Args:
        probabilities: N x K floats, rows sum to 1; N >= 1.
        labels: N true class indices.
        classes: names of the K classes, in the order of the columns.
        positive: the class of sensitivity, specificity and, with two classes, of the curves.
        threshold: an image is called positive when its probability is at least this; None calls
            the most probable class.
        groups: what was sampled together (patients, duplicates), a value per image; the bootstrap
            draws whole groups. None for independent images.
        seed: of the bootstrap.
        resamples: of the bootstrap; 0 for none of its intervals.

    Returns:
        ``n``; ``accuracy``; ``macro_precision``, ``macro_recall``, ``macro_f1``; ``roc_auc`` (of
        the positive class, with more than two classes the mean of one against the rest);
        ``average_precision`` (two classes only); ``log_loss`` in nats; ``sensitivity`` and
        ``specificity`` of the positive class; ``confusion`` (rows are the truth); ``per_class``;
        ``classes``, ``positive``, ``threshold``; ``ci`` with ``[low, high]`` by metric: Wilson's
        for accuracy, sensitivity and specificity, which takes images as independent, and the
        bootstrap's for the others and for ``accuracy_grouped``, which is there where groups are.
    """
    scores = np.asarray(probabilities, np.float64)
    truth = np.asarray(labels, np.int64)
    number = None if positive is None else list(classes).index(positive)
    if number is None or threshold is None:
        called = scores.argmax(1)
    else:
        called = call(np.asarray(probabilities), number, threshold)
    calls = Calls(scores, truth, called, number)
    whole = np.ones((1, len(truth)))
    one = {name: _plain(value[0]) for name, value in statistics(calls, whole).items()}
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (truth, called), 1)
    detected = _detection(confusion, number)
    ci = bootstrap(calls, groups, seed, resamples)
    if resamples and groups is not None and len(np.unique(np.asarray(groups))) < len(truth):
        ci["accuracy_grouped"] = ci["accuracy"]
    ci["accuracy"] = _wilson(int(np.trace(confusion)), len(truth))
    ci |= {name: _wilson(hits, total) for name, (hits, total) in detected.items()}
    return {
        "n": len(truth),
        **one,
        **{name: hits / total if total else None for name, (hits, total) in detected.items()},
        "confusion": confusion.tolist(),
        "per_class": _per_class(confusion, classes),
        "ci": ci,
        "classes": list(classes),
        "positive": positive,
        "threshold": threshold,
    }


def within(
    values: Sequence[str],
    probabilities: ArrayLike,
    labels: ArrayLike,
    classes: Sequence[str],
    positive: str | None = None,
    threshold: float | None = None,
    *,
    groups: ArrayLike | None = None,
    seed: int = 0,
    resamples: int = 2000,
) -> dict[str, dict[str, Any]]:
    """:func:`measure` for the images of each value of a facet (the day, the session) apart.

    Args:
        values: N values of the facet; images with the empty value are left out.
        probabilities: see :func:`measure`, as all others.
        labels: N true class indices.
        classes: names of the K classes.
        positive: the positive class.
        threshold: of the positive class.
        groups: what was sampled together.
        seed: of the bootstrap.
        resamples: of the bootstrap.
    """
    facet = np.asarray(values)
    found = {}
    for value in sorted(set(values) - {""}):
        own = facet == value
        found[value] = measure(
            np.asarray(probabilities)[own],
            np.asarray(labels)[own],
            classes,
            positive,
            threshold,
            groups=None if groups is None else np.asarray(groups)[own],
            seed=seed,
            resamples=resamples,
        )
    return found


def day_rule(
    days: Sequence[str],
    labels: ArrayLike,
    classes: Sequence[str],
    positive: str,
    good: str = "D5",
    *,
    groups: ArrayLike | None = None,
    seed: int = 0,
    resamples: int = 2000,
) -> dict[str, Any]:
    """What the day of development alone scores: an embryo is called good if and only if it is D5.

    Args:
        days: N days.
        labels: N true class indices.
        classes: the two class names.
        positive: the class of a good embryo.
        good: the day whose embryos are called good.
        groups: see :func:`measure`, as the next two.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Returns:
        :func:`measure` of the rule; ``log_loss`` is None, because a rule has no probabilities.
    """
    says = (np.asarray(days) == good).astype(np.float64)
    columns = [says if name == positive else 1 - says for name in classes]
    found = measure(
        np.stack(columns, 1),
        labels,
        classes,
        positive,
        groups=groups,
        seed=seed,
        resamples=resamples,
    )
    found["log_loss"] = found["ci"]["log_loss"] = None
    return found


def fold_summary(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean over folds, with the interval that the papers print.

    Args:
        values: one a fold; None where a fold has none, which is left out.

    Returns:
        ``mean``; ``sd`` (sample, ddof 1); ``ci95`` (Student's t with k - 1 degrees of freedom,
        2.776 for five folds); ``n``. None for what so few folds do not give. Folds share training
        images, so the interval is too narrow as one for the method (Bengio & Grandvalet 2004).
    """
    known = np.array([value for value in values if value is not None], np.float64)
    n = len(known)
    if n < 2:
        return {"mean": float(known[0]) if n else None, "sd": None, "ci95": None, "n": n}
    mean, sd = float(known.mean()), float(known.std(ddof=1))
    half = float(stats.t.ppf(0.975, n - 1)) * sd / n**0.5
    return {"mean": mean, "sd": sd, "ci95": [mean - half, mean + half], "n": n}


def corrected_t(differences: Sequence[float], test_share: float) -> dict[str, Any]:
    """Two methods over the same folds: the paired t-test and the corrected resampled one.

    The corrected test (Nadeau & Bengio, Machine Learning 52:239-281, 2003) allows for the training
    images that folds share: t = mean / sqrt((1/k + n_test / n_training) variance).

    Args:
        differences: one a fold, at least two.
        test_share: share of the images in a test fold, in (0, 1).

    Returns:
        ``mean``, ``sd``, ``n``; ``paired`` and ``corrected`` with ``t`` and two-sided ``p``, both
        None where the differences do not vary.
    """
    values = np.asarray(differences, np.float64)
    k, mean, variance = len(values), float(values.mean()), float(values.var(ddof=1))

    def test(factor: float) -> dict[str, float | None]:
        # Equal differences differ by rounding alone.
        if variance <= 1e-24:
            return {"t": None, "p": None}
        t = mean / (factor * variance) ** 0.5
        return {"t": t, "p": float(2 * stats.t.sf(abs(t), k - 1))}

    return {
        "mean": mean,
        "sd": variance**0.5,
        "n": k,
        "paired": test(1 / k),
        "corrected": test(1 / k + test_share / (1 - test_share)),
    }


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike) -> dict[str, Any]:
    """McNemar's exact test of two methods on the same images.

    Args:
        correct_a: N booleans, whether method a was right.
        correct_b: the same for b.

    Returns:
        ``only_a`` and ``only_b``, how many one method alone got right, and the two-sided ``p``.
    """
    a, b = np.asarray(correct_a, bool), np.asarray(correct_b, bool)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    differ = only_a + only_b
    p = float(stats.binomtest(only_a, differ).pvalue) if differ else 1.0
    return {"only_a": only_a, "only_b": only_b, "p": p}


def _detection(confusion: NDArray[np.int64], number: int | None) -> dict[str, tuple[int, int]]:
    """Right calls and images of the positive class, and of all others."""
    if number is None:
        return dict.fromkeys(("sensitivity", "specificity"), (0, 0))
    row, column = confusion[number], confusion[:, number]
    positives, others = int(row.sum()), int(confusion.sum() - row.sum())
    hits = int(row[number])
    return {
        "sensitivity": (hits, positives),
        "specificity": (others - int(column.sum()) + hits, others),
    }


def _per_class(confusion: NDArray[np.int64], classes: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for number, name in enumerate(classes):
        right = int(confusion[number, number])
        truth, called = int(confusion[number].sum()), int(confusion[:, number].sum())
        rows.append(
            {
                "class": name,
                "n": truth,
                "precision": right / called if called else None,
                "recall": right / truth if truth else None,
                "f1": 2 * right / (truth + called) if truth else None,
                "recall_ci": _wilson(right, truth),
            }
        )
    return rows


def _wilson(hits: int, total: int) -> list[float] | None:
    if not total:
        return None
    interval = wilson(hits, total)
    return [float(interval.low), float(interval.high)]


def _plain(value: np.float64) -> float | None:
    return float(value) if np.isfinite(value) else None
