"""Percentile bootstrap of classification metrics, for all resamples at once.

A resample is told by how often it holds each image, so every metric is computed for R x N weights:
confusion counts are one matrix product, areas under curves are sums over ranks. Checked against
scikit-learn in the tests.

Shapes: N images, K classes, R resamples, B blocks of equal scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# So many weights are held at a time, 8 bytes each.
CHUNK = 2_000_000


@dataclass(frozen=True)
class Calls:
    """What a classifier said about N images.

    Attributes:
        probabilities: N x K, rows sum to 1.
        labels: N true class indices.
        called: N class indices.
        positive: index of the positive class, if there is one.
    """

    probabilities: Floats
    labels: NDArray[np.int64]
    called: NDArray[np.int64]
    positive: int | None


def bootstrap(
    calls: Calls, groups: ArrayLike | None, seed: int, resamples: int
) -> dict[str, list[float] | None]:
    """95% percentile intervals of :func:`statistics`, by metric.

    Args:
        calls: the images.
        groups: N values; whole groups are drawn, with replacement. None draws images.
        seed: of the draws.
        resamples: how many. Those in which a metric is not defined are left out of its interval.

    Returns:
        ``[low, high]``, or None where the metric is never defined or there is one group only.
    """
    none = np.empty((0, len(calls.labels)))
    weights = chain([none], draws(len(calls.labels), groups, seed, resamples))
    parts = [statistics(calls, chunk) for chunk in weights]
    found: dict[str, list[float] | None] = {}
    for name in parts[0]:
        values = np.concatenate([part[name] for part in parts])
        values = values[np.isfinite(values)]
        found[name] = np.percentile(values, [2.5, 97.5]).tolist() if len(values) else None
    return found


def draws(n: int, groups: ArrayLike | None, seed: int, resamples: int) -> Iterator[Floats]:
    """How often each image counts in each resample, R x N, a chunk of the resamples at a time.

    Args:
        n: images.
        groups: N values; whole groups are drawn, with replacement. None draws images. A single
            group can be drawn in one way only: that is no knowledge, and nothing is yielded.
        seed: of the draws.
        resamples: how many there are in all chunks.
    """
    own = np.arange(n) if groups is None else np.asarray(groups)
    place = np.unique(own, return_inverse=True)[1]
    count = int(place.max()) + 1
    if count == 1:
        return
    generator = np.random.default_rng(seed)
    step = max(1, CHUNK // n)
    for first in range(0, resamples, step):
        rows = min(step, resamples - first)
        drawn = generator.integers(count, size=(rows, count)) + np.arange(rows)[:, None] * count
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        yield times[:, place].astype(np.float64)


def statistics(calls: Calls, weights: Floats) -> dict[str, Floats]:
    """Metrics by name for every resample, NaN where one is not defined.

    Args:
        calls: the images.
        weights: R x N, how often each image counts.

    Returns:
        R values each of ``accuracy``, ``macro_precision``, ``macro_recall``, ``macro_f1``,
        ``roc_auc``, ``average_precision`` and ``log_loss``; see
        :func:`fertiray.evaluation.metrics.measure`.
    """
    k, total = calls.probabilities.shape[1], weights.sum(1)
    cells = np.eye(k * k)[calls.labels * k + calls.called]
    confusion = (weights @ cells).reshape(-1, k, k)  # R x K x K
    right = np.einsum("rkk->rk", confusion)
    truth, called = confusion.sum(2), confusion.sum(1)
    present = (truth + called) > 0

    def macro(numerator: Floats, denominator: Floats) -> Floats:
        shares = np.divide(
            numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0
        )
        return np.asarray(shares.sum(1) / present.sum(1))

    own = calls.probabilities[np.arange(len(calls.labels)), calls.labels]
    # A float32 softmax cannot be told from 1 or 0 beyond its epsilon.
    surprise = -np.log(np.clip(own, np.finfo(np.float32).eps, 1.0))
    auc, precision = _curves(calls, weights)
    return {
        "accuracy": right.sum(1) / total,
        "macro_precision": macro(right, called),
        "macro_recall": macro(right, truth),
        "macro_f1": macro(2 * right, truth + called),
        "roc_auc": auc,
        "average_precision": precision,
        "log_loss": weights @ surprise / total,
    }


def _curves(calls: Calls, weights: Floats) -> tuple[Floats, Floats]:
    """Area under the ROC curve and average precision."""
    unknown = np.full(len(weights), np.nan)
    if calls.probabilities.shape[1] == 2:
        number = 1 if calls.positive is None else calls.positive
        auc, precision = ranked(weights, calls.probabilities[:, number], calls.labels == number)
        return auc, unknown if calls.positive is None else precision
    areas = [
        ranked(weights, calls.probabilities[:, number], calls.labels == number)[0]
        for number in range(calls.probabilities.shape[1])
    ]
    return np.mean(areas, axis=0), unknown


def ranked(weights: Floats, scores: Floats, positive: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """ROC-AUC by rank sums, where ties count half, and average precision.

    Args:
        weights: R x N, how often each image counts.
        scores: N, higher for more positive.
        positive: N.

    Returns:
        R values each; NaN where a resample lacks positives or negatives.
    """
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf) > 0)
    own = positive[order]
    sorted_weights = weights[:, order]
    # R x B, by block of equal scores, rising.
    yes = np.add.reduceat(sorted_weights * own, starts, axis=1)
    no = np.add.reduceat(sorted_weights * ~own, starts, axis=1)
    n_yes, n_no = yes.sum(1), no.sum(1)
    rising = np.cumsum(no, axis=1)
    auc = np.full(len(weights), np.nan)
    np.divide((yes * (rising - no / 2)).sum(1), n_yes * n_no, out=auc, where=n_yes * n_no > 0)
    hits = np.cumsum(yes[:, ::-1], axis=1)[:, ::-1]
    chosen = hits + n_no[:, None] - rising + no
    share = np.divide(hits, chosen, out=np.zeros_like(hits), where=chosen > 0)
    precision = np.full(len(weights), np.nan)
    np.divide((yes * share).sum(1), n_yes, out=precision, where=n_yes * n_no > 0)
    return auc, precision
