"""Is a network's doubt worth anything? Calibration, spread over views, unlike crops."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from fertiray.data.labelled import UNLABELLED
from fertiray.evaluation.calibration import reliability
from fertiray.evaluation.intervals import wilson
from fertiray.models.predict import Predicted


def trust(predicted: Predicted, truth: NDArray[np.int64]) -> dict[str, Any]:
    """What to think of the probabilities of labelled crops.

    Args:
        predicted: of N crops.
        truth: N x T class indices by task, in the order of the tasks; ``UNLABELLED`` where a crop
            is not graded.

    Returns:
        ``unlike`` (``share`` of crops with a detector's score above 1, ``n`` and 95% ``ci`` of
        Wilson) or None without a detector; by task, where graded, ``ece``; ``errors_by_confidence``
        and ``errors_by_spread``: ROC-AUC with which lack of confidence (1 - the largest
        probability) and spread over the views tell wrong calls from right ones, None where they
        do not differ or there is one view.
    """
    found: dict[str, Any] = {"unlike": None}
    if predicted.ood is not None:
        flagged, n = int((predicted.ood > 1).sum()), len(predicted.ood)
        limits = wilson(flagged, n)
        found["unlike"] = {
            "share": flagged / n,
            "n": n,
            "ci": [float(limits.low), float(limits.high)],
        }
    for number, (task, probabilities) in enumerate(predicted.probabilities.items()):
        graded = truth[:, number] != UNLABELLED
        if not graded.any():
            continue
        own, labels = probabilities[graded], truth[graded, number]
        wrong = own.argmax(1) != labels
        found[task] = {
            "ece": reliability(own, labels)["ece"],
            "errors_by_confidence": _area(wrong, 1 - own.max(1)),
            "errors_by_spread": _area(wrong, predicted.spread[task][graded]),
        }
    return found


def _area(wrong: NDArray[np.bool_], doubt: NDArray[np.float32]) -> float | None:
    if wrong.all() or not wrong.any() or np.isnan(doubt).any():
        return None
    return float(roc_auc_score(wrong, doubt))
