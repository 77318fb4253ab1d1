"""``fertiray train``: a labelled set in, a checkpoint folder out."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fertiray import checkpoint, config, provenance, storage
from fertiray.data.labelled import UNLABELLED, LabelledCrops, load_labelled
from fertiray.data.splits import Parts, load_split, save_split, three_parts
from fertiray.errors import InputError
from fertiray.evaluation.calibration import expected_calibration_error, fit_temperature, temper
from fertiray.evaluation.drift import score_counts
from fertiray.evaluation.intervals import between_sd
from fertiray.evaluation.metrics import measure
from fertiray.models.ood import Detector, fit_detector, summarise
from fertiray.models.predict import Predictor, call
from fertiray.papers.paper import Paper
from fertiray.training.config import TrainConfig
from fertiray.training.fit import Fitted, fit
from fertiray.training.start import Start, starting_point
from fertiray.training.worker import LocalWorker, Worker

SPLIT = "split.json"

_PARTS = ("training", "validation", "test")


def train(
    paper: Paper,
    settings: TrainConfig,
    data: str,
    out: str,
    *,
    worker: Worker | None = None,
    split: str | None = None,
) -> dict[str, Any]:
    """Trains one network on a labelled set and writes its checkpoint.

    Beside the checkpoint's own files the folder holds ``split.json``: which images were learned
    from, which chose the epoch, and which have not been looked at.

    Args:
        paper: gives the task, the classes and the positive class.
        settings: the recipe.
        data: labelled folder or labelled crop store, local or ``s3://``.
        out: checkpoint folder to write, local or ``s3://``.
        worker: the process that trains; one on the CPU by default.
        split: file of an earlier split to use instead of drawing one.

    Returns:
        ``checkpoint`` (the folder), ``metrics`` on the validation part, ``operating``, ``n`` of
        each part, ``history``. The test part is measured by ``fertiray evaluate``.

    Raises:
        InputError: settings or data that cannot be trained on; the message says what to do.
    """
    worker = worker or LocalWorker()
    crops, parts, positive, start = prepare(paper, settings, data, split)
    fitted = fit(settings, crops, parts, worker, start=start)
    if worker.rank:
        return {"checkpoint": out}
    metrics, operating, temperatures, scores = _validate(
        crops, parts, fitted, positive, settings, worker.device
    )
    detector = detector_of(fitted.model, settings, crops, parts.training, worker.device)
    rule = f"validation {settings.validation:g}, test {settings.test:g}"
    split_digest = save_split(
        storage.join(out, SPLIT), crops, parts, seed=settings.seed, rule=split or rule
    )
    tasks = crops.tasks if len(crops.tasks) > 1 else {}
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
            tasks=tasks,
            positive=positive,
            preprocessing=settings.preprocessing,
            operating=operating,
            temperatures=temperatures,
            metrics=metrics,
            validation_scores=scores,
            config=dataclasses.asdict(settings),
            data_digest=crops.digest,
            provenance={
                "versions": provenance.versions(),
                "commit": provenance.commit(),
                "trained": provenance.now(),
                "config_digest": config.digest(settings),
                "split_digest": split_digest,
                "workers": worker.size,
            },
        ),
        detector,
    )
    return {
        "checkpoint": out,
        "model": meta.name,
        "classes": list(meta.classes),
        "metrics": metrics,
        "operating": dataclasses.asdict(operating),
        "n": {
            **{name: len(getattr(parts, name)) for name in _PARTS},
            **_excluded(crops),
        },
        "history": fitted.history,
    }


def prepare(
    paper: Paper, settings: TrainConfig, data: str | LabelledCrops, split: str | None
) -> tuple[LabelledCrops, Parts, str, Start]:
    """All that a training needs beside its recipe: crops, split, positive class, start.

    Args:
        paper: see :func:`train`, as ``settings`` and ``split``.
        settings: the recipe.
        data: as :func:`load` takes it.
        split: file of an earlier split.

    Raises:
        InputError: as :func:`train`.
    """
    crops = load(paper, settings, data)
    positive = positive_class(paper, crops, data)
    if split is not None:
        parts = load_split(split, crops)
    else:
        parts = three_parts(
            strata(crops),
            crops.groups,
            validation=settings.validation,
            test=settings.test,
            seed=settings.seed,
            classes=crops.labels,
        )
    return crops, parts, positive, starting_point(settings, crops.classes)


def load(paper: Paper, settings: TrainConfig, data: str | LabelledCrops) -> LabelledCrops:
    """The labelled crops that a recipe learns from.

    Args:
        paper: gives the classes.
        settings: the recipe.
        data: where they are; or the crops of all tasks, as ``load_labelled`` reads them for it.

    Raises:
        InputError: as ``load_labelled``, or a ``task`` that the data do not have.
    """
    crops = data
    if isinstance(crops, str):
        crops = load_labelled(
            crops,
            settings.preprocessing,
            paper.known,
            frame=settings.frame,
            aspects=settings.loss.harc != "none",
        )
    if settings.task is None:
        return crops
    if settings.task not in crops.tasks:
        raise InputError(
            f"task={settings.task}: not one of the data's tasks, {', '.join(crops.tasks)}"
        )
    number = list(crops.tasks).index(settings.task)
    graded = np.flatnonzero(crops.targets[:, number] != UNLABELLED)
    chosen = crops.take(graded)
    return dataclasses.replace(
        chosen,
        targets=chosen.targets[:, [number]],
        tasks={settings.task: crops.tasks[settings.task]},
    )


def strata(crops: LabelledCrops) -> NDArray[np.int64]:
    """What a split keeps in proportion: the grades, and the facets (such as the day) beside them.

    Returns:
        N int64 codes, the same for crops that agree in all of it.
    """
    columns = [crops.targets[:, number] for number in range(crops.targets.shape[1])]
    columns += [np.unique(values, return_inverse=True)[1] for values in crops.facets.values()]
    _, codes = np.unique(np.stack(columns, 1), axis=0, return_inverse=True)
    return np.asarray(codes, dtype=np.int64).ravel()


def positive_class(paper: Paper, crops: LabelledCrops, data: str | LabelledCrops) -> str:
    """The class that a patient's fraction counts.

    Raises:
        InputError: the data have no crop of it.
    """
    found = next((name for name in paper.positive if name in crops.classes), None)
    if found is None:
        if len(paper.known) > 1:  # a single grade of a multi-task paper: its last class
            return crops.classes[-1]
        where = data if isinstance(data, str) else "the data"
        raise InputError(
            f"{where}: no crop of the positive class ({' or '.join(paper.positive)});"
            f" found {', '.join(crops.classes)}"
        )
    return found


def _excluded(crops: LabelledCrops) -> dict[str, int]:
    reasons = [entry.reason for entry in crops.excluded]
    contradictions = sum(reason.startswith("contradict") for reason in reasons)
    return {"rejected": len(reasons) - contradictions, "conflicting": contradictions}


def _name(out: str, model: str) -> str:
    folder = out.rstrip("/").rpartition("/")[2]
    return folder if folder not in {"", ".", ".."} else model


def _validate(
    crops: LabelledCrops,
    parts: Parts,
    fitted: Fitted,
    positive: str,
    settings: TrainConfig,
    device: str,
) -> tuple[dict[str, Any], checkpoint.Operating, dict[str, float], dict[str, tuple[int, ...]]]:
    """Metrics, operating point, temperatures and scores on the validation part, in fp32."""
    by_task = probabilities_of(fitted.model, settings, crops, parts.validation, device)
    temperatures = {}
    tasks = {}
    for number, (task, classes) in enumerate(crops.tasks.items()):
        truth = crops.targets[parts.validation, number]
        graded = truth != UNLABELLED
        if graded.any():
            # A network with one task calls it "class", whatever the data call it.
            own = task if task in by_task else "class"
            temperatures[own] = fit_temperature(by_task[own][graded], truth[graded])
            found = temper(by_task[own], temperatures[own]).astype(np.float32)
            tasks[task] = (found[graded], truth[graded], graded, classes)
    probabilities, truth, graded, classes = next(iter(tasks.values()))
    looked_at = crops.take(parts.validation[graded])
    number = classes.index(positive)
    called = call(probabilities, number, settings.threshold)
    # Crops of unknown patients count as patients of their own.
    patients = np.array([looked_at.patients[i] or f"crop {i}" for i in range(len(truth))])
    is_positive, called_positive = truth == number, called == number
    operating = checkpoint.Operating(
        threshold=settings.threshold,
        sensitivity=float(called_positive[is_positive].mean()),
        specificity=float((~called_positive[~is_positive]).mean()),
        n_positive=int(is_positive.sum()),
        n_negative=int((~is_positive).sum()),
        sensitivity_sd=between_sd(called_positive[is_positive], patients[is_positive]),
        specificity_sd=between_sd(~called_positive[~is_positive], patients[~is_positive]),
        n_patients=len(set(looked_at.patients) - {None}),
    )
    # The operating point is for patients' fractions; with several classes the most probable one
    # is called, as the papers do.
    threshold = settings.threshold if len(classes) == 2 else None
    measured = measure(probabilities, truth, classes, positive, threshold, resamples=0)
    metrics = {
        **{name: measured[name] for name in ("accuracy", "macro_f1", "roc_auc")},
        "sensitivity": operating.sensitivity,
        "specificity": operating.specificity,
        "ece": expected_calibration_error(probabilities, truth),
        "loss": fitted.best["validation_loss"],
        "best_epoch": int(fitted.best["epoch"]),
        "n_validation": len(parts.validation),
    }
    for task, (p, t, _, names) in list(tasks.items())[1:]:
        metrics[f"{task}_macro_f1"] = measure(p, t, names, None, resamples=0)["macro_f1"]
    scores = {
        name: tuple(score_counts(probabilities[chosen, number]).tolist())
        for name, chosen in (("positive", is_positive), ("other", ~is_positive))
    }
    return metrics, operating, temperatures, scores


def detector_of(
    model: nn.Module,
    settings: TrainConfig,
    crops: LabelledCrops,
    picked: NDArray[np.int64],
    device: str,
) -> Detector | None:
    """The detector of crops unlike those that the network learned from, in fp32."""
    found = summarise(model, settings.preprocessing, crops.images[picked], device)
    model.cpu()
    return fit_detector(found, crops.groups[picked])


def probabilities_of(
    model: nn.Module,
    settings: TrainConfig,
    crops: LabelledCrops,
    picked: NDArray[np.int64],
    device: str,
) -> dict[str, NDArray[np.float32]]:
    """Probabilities by task, as the network gives them, in fp32 over the recipe's views."""
    predictor = Predictor(model, settings.preprocessing, device, views=settings.views)
    found = predictor.by_task(crops.images[picked])
    model.cpu()
    return found
