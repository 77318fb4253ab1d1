"""Has the distribution of scores moved away from the validation's?

Patients have another share of positive crops than the validation images, so their scores are
distributed differently even where nothing is wrong. What does not change, as long as crops look as
they did, is how the scores of positive crops and those of the others are distributed ("label
shift", Saerens et al., Neural Computation 2002). So a run is compared with the mixture of those two
that comes nearest to it, and only what no mixture explains counts as drift.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 10
DRAWS = 200
_SHARES = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Drift:
    """How a run's scores lie to the validation's.

    Attributes:
        distance: total variation distance to the nearest mixture, in [0, 1]: the share of crops
            whose scores it does not explain.
        chance: the distance that 95% of runs of this size stay below where nothing has moved.
        excess: ``distance - chance``, not below 0.
        share: of positive crops in the nearest mixture.
        expected: BINS float64, the nearest mixture.
    """

    distance: float
    chance: float
    excess: float
    share: float
    expected: NDArray[np.float64]


def score_counts(probabilities: ArrayLike) -> NDArray[np.int64]:
    """Crops by probability of the positive class, in BINS equal parts of [0, 1].

    Args:
        probabilities: N floats; those that are not finite are not counted.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    counts, _ = np.histogram(values[np.isfinite(values)], BINS, (0.0, 1.0))
    return counts.astype(np.int64)


def drift(found: ArrayLike, positive: ArrayLike, other: ArrayLike, *, seed: int = 0) -> Drift:
    """Compares a run's scores with those of the validation images.

    Args:
        found: BINS counts of the run, as :func:`score_counts`; at least one crop.
        positive: the same of the validation's positive images; at least one.
        other: of its other images; at least one.
        seed: of the draws behind ``chance``.

    Returns:
        The distance, and what chance explains of it: counts are drawn anew, as many as there were,
        from distributions estimated with half a crop more in each part.
    """
    run, one, two = (np.asarray(counts, dtype=np.float64) for counts in (found, positive, other))
    distance, share = (float(values[0]) for values in _nearest(run[None], one[None], two[None]))
    rng = np.random.default_rng(seed)
    p, q = ((counts + 0.5) / (counts + 0.5).sum() for counts in (one, two))
    drawn = (
        rng.multinomial(int(counts.sum()), parts, DRAWS).astype(np.float64)
        for counts, parts in ((run, share * p + (1 - share) * q), (one, p), (two, q))
    )
    chance = float(np.quantile(_nearest(*drawn)[0], 0.95))
    mixture = share * one / one.sum() + (1 - share) * two / two.sum()
    return Drift(distance, chance, max(0.0, distance - chance), share, mixture)


def _nearest(
    run: NDArray[np.float64], one: NDArray[np.float64], two: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances and shares of the nearest mixtures; D x BINS counts each."""
    run, one, two = (counts / counts.sum(1, keepdims=True) for counts in (run, one, two))
    w = _SHARES[:, None, None]
    distances = 0.5 * np.abs(run - (w * one + (1 - w) * two)).sum(2)  # W x D
    best = distances.argmin(0)
    return distances[best, np.arange(len(run))], _SHARES[best]
