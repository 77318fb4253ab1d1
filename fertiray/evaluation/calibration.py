"""Do probabilities mean what they say? Reliability, its error, and temperature scaling.

Shapes: N images, K classes. The confidence of an image is the probability of its most probable
class; a calibrated network is right in 80% of the images of which it is 80% sure. Guo et al., "On
calibration of modern neural networks", ICML 2017.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

Floats = NDArray[np.float64]

# A small validation part without a single error would ask for a temperature of 0.
LEAST, MOST = 0.25, 8.0
# A float32 softmax cannot be told from 0 below its epsilon.
SMALLEST = float(np.finfo(np.float32).eps)


def reliability(probabilities: ArrayLike, labels: ArrayLike, bins: int = 15) -> dict[str, Any]:
    """Accuracy against confidence in bins of equal width, and the expected calibration error.

    Args:
        probabilities: N x K, rows sum to 1; N >= 1.
        labels: N true class indices.
        bins: how many equal parts of [0, 1]; a confidence on an edge belongs below it.

    Returns:
        ``ece``: mean over images of |accuracy - confidence| of their bin, in [0, 1]; ``bins``:
        ``low``, ``high``, ``n``, and ``confidence`` and ``accuracy`` (means, None in an empty bin).
    """
    confidence, right = _confidence(probabilities, labels)
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    n = np.bincount(place, minlength=bins)
    sure = np.bincount(place, confidence, bins)
    hits = np.bincount(place, right, bins)
    return {
        "ece": float(np.abs(hits - sure).sum() / len(confidence)),
        "bins": [
            {
                "low": float(edges[i]),
                "high": float(edges[i + 1]),
                "n": int(n[i]),
                "confidence": float(sure[i] / n[i]) if n[i] else None,
                "accuracy": float(hits[i] / n[i]) if n[i] else None,
            }
            for i in range(bins)
        ],
    }


def expected_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, bins: int = 15
) -> float:
    """``ece`` of :func:`reliability`."""
    return float(reliability(probabilities, labels, bins)["ece"])


def temper(probabilities: ArrayLike, temperature: float) -> Floats:
    """Probabilities at another temperature: proportional to p^(1/T).

    For one view of a crop that is the softmax of logits / T. An average over views is tempered
    after averaging, because averaging calibrated networks makes them underconfident (Rahaman &
    Thiery, NeurIPS 2021). The order of the classes of an image does not change.

    Args:
        probabilities: ... x K, last axis sums to 1.
        temperature: above 1 makes less sure, below 1 more.
    """
    logs = np.log(np.maximum(np.asarray(probabilities, np.float64), SMALLEST)) / temperature
    values = np.exp(logs - logs.max(-1, keepdims=True))
    return np.asarray(values / values.sum(-1, keepdims=True))


def fit_temperature(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """The temperature of least negative log likelihood, within [0.25, 8].

    Args:
        probabilities: N x K of images that were not learned from, rows sum to 1.
        labels: N true class indices.
    """
    scores, truth = np.asarray(probabilities, np.float64), np.asarray(labels, np.int64)
    rows = np.arange(len(truth))

    def loss(log_temperature: float) -> float:
        own = temper(scores, float(np.exp(log_temperature)))[rows, truth]
        return float(-np.log(own).mean())

    bounds = (np.log(LEAST), np.log(MOST))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-5})
    return float(np.exp(found.x))


def _confidence(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    scores = np.asarray(probabilities, np.float64)
    right = scores.argmax(1) == np.asarray(labels, np.int64)
    return scores.max(1), right.astype(np.float64)
