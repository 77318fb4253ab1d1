"""What is refused before anything is built: settings and data that do not fit each other."""

from __future__ import annotations

import numpy as np

from fertiray.data.labelled import LabelledCrops
from fertiray.data.splits import Parts
from fertiray.errors import InputError
from fertiray.models.registry import MODELS
from fertiray.training.config import TrainConfig


def check(config: TrainConfig, crops: LabelledCrops, parts: Parts, workers: int) -> None:
    """Refuses what could not be trained.

    Args:
        config: the recipe.
        crops: the data.
        parts: their split.
        workers: number of processes.

    Raises:
        InputError: what does not fit, and the remedy.
    """
    spec = MODELS.get(config.model)
    if spec is not None and (len(crops.tasks) > 1) != isinstance(spec.classes, dict):
        wanted = "grades for several tasks" if len(crops.tasks) == 1 else "one task"
        raise InputError(
            f"model {config.model!r} takes {wanted}, the data have {', '.join(crops.tasks)}:"
            " choose one with --set task=NAME or another --model"
        )
    classes = crops.classes
    weights = config.loss.class_weights
    if not isinstance(weights, bool) and len(weights) != len(classes):
        raise InputError(
            f"loss.class_weights has {len(weights)} numbers for {len(classes)} classes"
            f" ({', '.join(classes)}): give one a class, or true for inverse frequency"
        )
    if config.loss.harc == "effective" and normal_class(classes) is None:
        raise InputError(
            f"loss.harc: none of the classes {', '.join(classes)} is a normal head: set"
            " loss.harc=none"
        )
    if config.loss.distil and config.teacher is None:
        raise InputError("loss.distil needs a trained network: --set teacher=CHECKPOINT")
    if config.batch_size < workers:
        raise InputError(
            f"batch_size {config.batch_size} is smaller than {workers} workers: set a larger one"
        )
    if config.keep != "last" and not len(parts.validation):
        raise InputError(f"keep={config.keep} needs a validation part: set keep=last")
    if len(parts.training) < 2:
        raise InputError(f"{len(parts.training)} crops are too few to train on: add data")
    if len(crops.tasks) == 1:
        counts = np.bincount(crops.labels[parts.training], minlength=len(classes))
        if not counts.all():
            raise InputError(
                f"class {classes[int(counts.argmin())]!r} has no crop in the training part: add"
                " crops of it, or take another seed"
            )


def normal_class(classes: tuple[str, ...]) -> int | None:
    """Index of the class of normal heads; None where there is none."""
    return next((i for i, name in enumerate(classes) if name.startswith("Normal")), None)
