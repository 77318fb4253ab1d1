"""``fertiray train``: a labelled set in, a checkpoint folder out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score, roc_auc_score

from fertiray import checkpoint, config, provenance
from fertiray.data.labelled import LabelledCrops, load_labelled
from fertiray.errors import InputError
from fertiray.evaluation.intervals import between_sd
from fertiray.models.predict import call
from fertiray.papers.paper import Paper
from fertiray.training.config import TrainConfig
from fertiray.training.fit import Epoch, Fitted, fit


def train(
    paper: Paper,
    settings: TrainConfig,
    data: str,
    out: str,
    *,
    device: str = "cpu",
    report: Callable[[Epoch], None] | None = None,
) -> dict[str, Any]:
    """Trains one network on a labelled set and writes its checkpoint.

    Args:
        paper: gives the task, the classes and the positive class.
        settings: the recipe.
        data: labelled folder or labelled crop store, local or ``s3://``.
        out: checkpoint folder to write, local or ``s3://``.
        device: where to train.
        report: called after each epoch.

    Returns:
        ``checkpoint`` (the folder), ``metrics`` on the validation set, and ``n`` of each part.

    Raises:
        InputError: data that cannot be trained on; the message says what to do.
    """
    crops = load_labelled(data, settings.preprocessing, paper.classes)
    positive = next((name for name in paper.positive if name in crops.classes), None)
    if positive is None:
        raise InputError(
            f"{data}: no crop of the positive class ({' or '.join(paper.positive)});"
            f" found {', '.join(crops.classes)}"
        )
    fitted = fit(settings, crops, device=device, report=report)
    metrics, operating = _validate(crops, fitted, positive, settings.threshold)
    meta = checkpoint.save(
        out,
        fitted.model,
        checkpoint.Meta(
            name=_name(out, settings.model),
            paper=paper.name,
            model=settings.model,
            model_args=settings.model_args,
            task=paper.task,
            classes=crops.classes,
            positive=positive,
            preprocessing=settings.preprocessing,
            operating=operating,
            metrics=metrics,
            config=dataclasses.asdict(settings),
            data_digest=crops.digest,
            provenance={
                "versions": provenance.versions(),
                "commit": provenance.commit(),
                "trained": provenance.now(),
                "config_digest": config.digest(settings),
            },
        ),
    )
    return {
        "checkpoint": out,
        "model": meta.name,
        "classes": list(meta.classes),
        "metrics": metrics,
        "operating": dataclasses.asdict(operating),
        "n": {
            "training": len(crops.labels) - len(fitted.validation),
            "validation": len(fitted.validation),
            "rejected": len(crops.rejected),
            "conflicting": len(crops.conflicts),
        },
        "history": [dataclasses.asdict(epoch) for epoch in fitted.history],
    }


def _name(out: str, model: str) -> str:
    folder = out.rstrip("/").rpartition("/")[2]
    return folder if folder not in {"", ".", ".."} else model


def _validate(
    crops: LabelledCrops, fitted: Fitted, positive: str, threshold: float
) -> tuple[dict[str, Any], checkpoint.Operating]:
    truth: NDArray[np.int64] = crops.labels[fitted.validation]
    probabilities = fitted.probabilities
    number = crops.classes.index(positive)
    called = call(probabilities, number, threshold)
    # Crops of unknown patients count as patients of their own.
    patients = np.array([crops.patients[i] or f"crop {i}" for i in fitted.validation])
    is_positive, called_positive = truth == number, called == number
    operating = checkpoint.Operating(
        threshold=threshold,
        sensitivity=float(called_positive[is_positive].mean()),
        specificity=float((~called_positive[~is_positive]).mean()),
        n_positive=int(is_positive.sum()),
        n_negative=int((~is_positive).sum()),
        sensitivity_sd=between_sd(called_positive[is_positive], patients[is_positive]),
        specificity_sd=between_sd(~called_positive[~is_positive], patients[~is_positive]),
        n_patients=len({crops.patients[i] for i in fitted.validation} - {None}),
    )
    metrics = {
        "accuracy": float((called == truth).mean()),
        "macro_f1": float(f1_score(truth, called, average="macro")),
        "roc_auc": float(roc_auc_score(is_positive, probabilities[:, number])),
        "sensitivity": operating.sensitivity,
        "specificity": operating.specificity,
        "loss": fitted.best.validation_loss,
        "best_epoch": fitted.best.epoch,
        "n_validation": len(truth),
    }
    return metrics, operating
