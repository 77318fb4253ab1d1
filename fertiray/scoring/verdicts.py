"""On which side of the clinical threshold a patient lies, in words, or that it cannot be told yet.

Threshold for zona-pellucida binding: 4.9%; at or below it, ICSI is to be considered (Leung et al.,
"Automatic identification of human spermatozoa with zona pellucida-binding capability using deep
learning", Human Reproduction Open).
Reference for morphology: 4% normal forms (WHO laboratory manual, 6th edition, 2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from fertiray.errors import InputError
from fertiray.evaluation.intervals import Accuracy, prevalence_interval, wilson

CLINICAL_THRESHOLD = {"zona": 0.049, "morphology": 0.04}
ABOVE, BELOW, INDETERMINATE, NO_RESULT = "above", "below", "indeterminate", "no result"
VERDICTS = {
    "zona": {ABOVE: "conventional IVF", BELOW: "consider ICSI"},
    "morphology": {ABOVE: "at or above WHO reference", BELOW: "below WHO reference"},
}

MOST_CROPS = 1_000_000  # nobody scores more crops of one man; "not by counting" beyond it


@dataclass(frozen=True)
class ModelInfo:
    """What aggregation must know about a model.

    Attributes:
        name: the value of the column ``model``.
        task: ``zona`` or ``morphology``; gives the clinical threshold and the verdicts' words.
        classes: class names in the order of the network's outputs.
        positive: the class whose fraction is the patient's number.
        accuracy: sensitivity and specificity for the positive class at the operating threshold,
            with their validation counts; None if never measured (then there is no prevalence).
        operating_threshold: least probability at which a crop was called positive; None where
            the most probable class was taken.
    """

    name: str
    task: str
    classes: tuple[str, ...]
    positive: str
    accuracy: Accuracy | None = None
    operating_threshold: float | None = None

    @property
    def threshold(self) -> float:
        """The clinical threshold, as a share of 1."""
        return CLINICAL_THRESHOLD[self.task]

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> ModelInfo:
        """Reads a checkpoint's ``meta.json``.

        Raises:
            InputError: an unknown task, or a classifier no better than chance.
        """
        name, task = str(meta["name"]), str(meta["task"])
        if task not in CLINICAL_THRESHOLD:
            known = ", ".join(CLINICAL_THRESHOLD)
            raise InputError(f"{name}: task {task!r} has no patient result, only {known} have")
        operating = meta.get("operating") or {}
        accuracy = None
        if operating.get("sensitivity") is not None and operating.get("specificity") is not None:
            try:
                accuracy = Accuracy(
                    operating["sensitivity"],
                    operating["specificity"],
                    operating.get("n_positive"),
                    operating.get("n_negative"),
                    operating.get("sensitivity_sd", 0.0),
                    operating.get("specificity_sd", 0.0),
                    operating.get("n_patients", 0),
                )
            except InputError as error:
                raise InputError(f"{name}: {error}") from error
        classes, positive = tuple(meta["classes"]), str(meta["positive"])
        return cls(name, task, classes, positive, accuracy, operating.get("threshold"))


def side(low: pl.Expr, high: pl.Expr, model: ModelInfo) -> pl.Expr:
    """On which side of the threshold an interval (or a point: low = high) lies."""
    above, below = low > model.threshold, high <= model.threshold
    if model.task == "morphology":  # "at or above" the reference is the good side
        above, below = low >= model.threshold, high < model.threshold
    words = VERDICTS[model.task]
    return (
        pl.when(low.is_null())
        .then(pl.lit(NO_RESULT))
        .when(above)
        .then(pl.lit(words[ABOVE]))
        .when(below)
        .then(pl.lit(words[BELOW]))
        .otherwise(pl.lit(INDETERMINATE))
    )


def crops_to_settle(n_positive: int, n_scored: int, model: ModelInfo, follows: str) -> int | None:
    """How many more crops would put the interval on one side, if the fraction stays as it is.

    Args:
        n_positive: positive crops so far.
        n_scored: scored crops so far, above 0.
        model: gives threshold and accuracy.
        follows: ``prevalence`` or ``fraction interval``, the interval that is to be settled.

    Returns:
        Further crops, or None where no number of crops does it: the estimate lies on the
        threshold, or what is left is the uncertainty of the classifier's own accuracy.
    """
    sizes = np.unique(np.geomspace(n_scored, MOST_CROPS, 600).round())
    positive = sizes * (n_positive / n_scored)
    if follows == "prevalence" and model.accuracy is not None:
        limits = prevalence_interval(positive, sizes, model.accuracy)
    else:
        limits = wilson(positive, sizes)
    settled = (limits.low > model.threshold) | (limits.high < model.threshold)
    return int(sizes[settled.argmax()]) - n_scored if settled.any() else None
