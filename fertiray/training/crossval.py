"""``fertiray crossval``: every image tested once, by a network that has not seen it.

A fold's test images take no part in its training: neither in learning nor in choosing the epoch.
Finished folds are kept and not done again; the state of the fold that runs is kept after every
epoch, so that a killed run loses at most one.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fertiray import config, parquet, storage
from fertiray.data import splits
from fertiray.data.labelled import UNLABELLED, LabelledCrops
from fertiray.data.splits import Parts, three_parts
from fertiray.errors import InputError
from fertiray.evaluation import results
from fertiray.evaluation.comparison import fold_metrics
from fertiray.evaluation.metrics import SCALARS, fold_summary
from fertiray.papers.paper import Paper
from fertiray.training.config import TrainConfig
from fertiray.training.evaluate import excluded, learned_digests
from fertiray.training.fit import fit
from fertiray.training.predictions import (
    Predictions,
    probabilities_in,
)
from fertiray.training.start import starting_point
from fertiray.training.train import load, positive_class, probabilities_of, strata
from fertiray.training.worker import LocalWorker, Worker

Line = dict[str, Any]
OnEpoch = Callable[[Line], None]
# Takes the folder that keeps the state of one training (None for none), and what is called with
# each epoch's metrics.
MakeWorker = Callable[[str | None, OnEpoch | None], Worker]
# Takes a trained network, in evaluation mode on the CPU, and says something more about it.
Look = Callable[[nn.Module], dict[str, float]]


def crossval(
    paper: Paper,
    settings: TrainConfig,
    data: str | LabelledCrops,
    *,
    folds: int = 5,
    seed: int = 42,
    out: str | None = None,
    device: str = "cpu",
    members: int = 1,
    worker: MakeWorker | None = None,
    on_epoch: Callable[[int, Line], None] | None = None,
    progress: Callable[[Line], None] | None = None,
    only: int | None = None,
    look: Look | None = None,
) -> dict[str, Any]:
    """K-fold cross-validation of a recipe.

    Folds are stratified by class and facets, and groups stay whole. With ``keep="last"`` all other
    images are learned from; otherwise ``settings.validation`` of them is split off, in the same
    manner, to choose the epoch.

    Args:
        paper: gives the classes and the positive class.
        settings: the recipe; its ``test`` share has no meaning here.
        data: labelled folder or labelled crop store, local or ``s3://``; or the crops of all tasks,
            as ``load_labelled`` reads them for this recipe.
        folds: how many, two or more.
        seed: of the folds, of the validation parts and of the bootstrap; ``settings.seed`` is that
            of the trainings.
        out: folder, local or ``s3://``, for ``fold-k.json`` and ``fold-k.parquet`` (k from 1), the
            running state and ``crossval.json``. None keeps nothing.
        device: a torch device.
        members: networks a fold, with seeds ``settings.seed``, ``settings.seed + 1`` and so on,
            whose probabilities are averaged.
        worker: makes the process of each training; :class:`LocalWorker` by default.
        on_epoch: called with the fold and each epoch's metrics.
        progress: called with each finished fold.
        only: run this fold alone and return its line; another call with the same ``out`` gathers
            all. For folds that run at the same time.
        look: called with each trained network.

    Returns:
        ``folds`` (``fold``, ``n``, ``metrics``, ``confusion``, ``epochs`` kept by each member and
        its ``history``, ``looks`` (mean over members), ``seconds``); ``mean``, ``sd`` and ``ci95``
        by metric, over folds; ``pooled``: :func:`fertiray.evaluation.metrics.measure` of all
        images, each tested once (its curves rank the probabilities of all folds' networks
        together); ``within`` and ``day_rule`` as
        :class:`fertiray.training.predictions.Predictions` has them; ``tasks`` with all of this by
        task, where there are several, those at the top being the first one's;
        ``calls``, for :func:`fertiray.evaluation.comparison.compare`; ``n``, ``excluded`` by
        reason, ``unframed`` (heads that were not found), digests, ``protocol``, ``config``,
        ``cautions`` and ``origin``. With ``only``, that entry of ``folds``.

    Raises:
        InputError: data or settings that cannot be trained on, or an ``out`` that holds folds of
            other data or settings.
    """
    whole = _Folds(paper, settings, data, folds, seed, members, look)
    make = worker or (lambda folder, call: LocalWorker(device, folder, call))
    done = []
    for number in range(1, folds + 1) if only is None else (only,):
        found = whole.kept(out, number)
        if found is None:
            heard = None if on_epoch is None else _heard(on_epoch, number)
            found = whole.run(number, out, make, heard)
        done.append(found)
        if progress is not None:
            progress(found[0])
    if only is not None:
        return done[0][0]
    result = whole.summary(done)
    if out is not None:
        _write_json(storage.join(out, "crossval.json"), result)
    return result


class _Folds:
    """The data of a cross-validation with its folds."""

    def __init__(
        self,
        paper: Paper,
        settings: TrainConfig,
        data: str | LabelledCrops,
        folds: int,
        seed: int,
        members: int,
        look: Look | None,
    ) -> None:
        if folds < 2 or members < 1:
            raise InputError(f"--folds {folds}, --members {members}: give 2 or more, 1 or more")
        self.paper, self.settings, self.seed, self.members = paper, settings, seed, members
        self.look = look
        # Folds are drawn over the images of all tasks, so that a network for one of them can be
        # compared with one for all.
        whole = load(paper, dataclasses.replace(settings, task=None), data)
        tests = splits.folds(
            strata(whole), whole.groups, folds, seed, names=whole.digests, classes=whole.labels
        )
        digests = [{whole.digests[i] for i in test} for test in tests]
        self.crops = whole if settings.task is None else load(paper, settings, data)
        self.tests = [
            np.array([i for i, digest in enumerate(self.crops.digests) if digest in own], np.int64)
            for own in digests
        ]
        self.positive = positive_class(paper, self.crops, data)
        self.start = starting_point(settings, self.crops.classes)
        self.split_digest = config.digest([sorted(own) for own in digests])
        self.digest = config.digest(
            {
                "paper": paper.name,
                "settings": dataclasses.asdict(settings),
                "data": self.crops.digest,
                "split": self.split_digest,
                "seed": seed,
                "members": members,
            }
        )

    def kept(self, out: str | None, number: int) -> tuple[Line, Predictions] | None:
        """A fold that was finished before."""
        if out is None or not storage.exists(place := storage.join(out, f"fold-{number}.json")):
            return None
        line = config.read_object(place, "delete it, and this fold is done again")
        if line.get("digest") != self.digest:
            raise InputError(
                f"{place}: made with other settings, data, folds or seed: give another --out"
            )
        table = parquet.read(storage.join(out, f"fold-{number}.parquet"))
        return line, self._predictions(
            self.tests[number - 1], probabilities_in(table, self.crops.tasks)
        )

    def run(
        self, number: int, out: str | None, make: MakeWorker, heard: OnEpoch | None
    ) -> tuple[Line, Predictions]:
        """Trains and tests one fold."""
        began = time.perf_counter()
        parts = self._parts(number)
        folder = None if out is None else storage.join(out, f"fold-{number}")
        sums: dict[str, NDArray[np.float64]] = {}
        looks: dict[str, float] = {}
        epochs, history = [], []
        for member in range(self.members):
            settings = dataclasses.replace(self.settings, seed=self.settings.seed + member)
            state = None if folder is None else storage.join(folder, f"member-{member + 1}")
            worker = make(state, heard)
            fitted = fit(settings, self.crops, parts, worker, start=self.start)
            epochs.append(int(fitted.best["epoch"]))
            history.append(fitted.history)
            found = probabilities_of(fitted.model, settings, self.crops, parts.test, worker.device)
            for task in self.crops.tasks:
                own = found.get(task, found.get("class"))
                assert own is not None  # a network with one task calls it "class"
                sums[task] = sums.get(task, 0.0) + own.astype(np.float64) / self.members
            if self.look is not None:
                for name, value in self.look(fitted.model).items():
                    looks[name] = looks.get(name, 0.0) + value / self.members
        predictions = self._predictions(parts.test, sums)
        by_task = {
            task: {
                "metrics": {metric: measured[metric] for metric in SCALARS},
                "confusion": measured["confusion"],
            }
            for task, measured in predictions.results(self.seed, resamples=0).items()
        }
        line = {
            "fold": number,
            "n": len(parts.test),
            "n_training": len(parts.training),
            "n_validation": len(parts.validation),
            **next(iter(by_task.values())),
            **({"tasks": by_task} if len(self.crops.tasks) > 1 else {}),
            "epochs": epochs,
            "history": history,
            **({"looks": looks} if looks else {}),
            "seconds": time.perf_counter() - began,
            "digest": self.digest,
        }
        if out is not None and folder is not None:
            # The line comes last: a fold with it is whole.
            parquet.write(storage.join(out, f"fold-{number}.parquet"), predictions.table())
            _write_json(storage.join(out, f"fold-{number}.json"), line)
            storage.remove(folder)
        return line, predictions

    def summary(self, done: list[tuple[Line, Predictions]]) -> dict[str, Any]:
        """The result of all folds together."""
        lines = [line for line, _ in done]
        order = np.concatenate(self.tests)
        place = np.argsort(order)
        probabilities = {
            task: np.concatenate([own.probabilities[task] for _, own in done])[place]
            for task in self.crops.tasks
        }
        pooled = self._predictions(order[place], probabilities)
        tasks = {
            task: _task_summary(pooled, task, measured, lines)
            for task, measured in pooled.results(self.seed).items()
        }
        settings = self.settings
        return {
            "paper": self.paper.name,
            "model": settings.model,
            "n": len(order),
            "folds": lines,
            **next(iter(tasks.values())),
            **({"tasks": tasks} if len(self.crops.tasks) > 1 else {}),
            "excluded": excluded(self.crops),
            "unframed": len(self.crops.unframed),
            "cautions": self._cautions(),
            "protocol": {
                "model": settings.model,
                "backbone": settings.model_args.get("backbone"),
                "frame": settings.frame,
                "size": settings.preprocessing.size,
                "epochs": settings.epochs,
                "keep": settings.keep,
                "views": settings.views,
                "folds": len(lines),
                "members": self.members,
            },
            "seed": self.seed,
            "config": dataclasses.asdict(settings),
            "config_digest": config.digest(settings),
            "data_digest": self.crops.digest,
            "split_digest": self.split_digest,
            "origin": results.origin(self.seed, self.crops.digest),
        }

    def _parts(self, number: int) -> Parts:
        """What a fold learns from, chooses its epoch by, and is tested on."""
        test = self.tests[number - 1]
        rest = np.setdiff1d(np.arange(len(self.crops.names)), test)
        if self.settings.keep == "last":
            return Parts(rest, np.array([], np.int64), test)
        inner = three_parts(
            strata(self.crops)[rest],
            self.crops.groups[rest],
            validation=self.settings.validation,
            test=0.0,
            seed=self.seed,
            names=[self.crops.digests[i] for i in rest],
            classes=self.crops.labels[rest],
        )
        return Parts(rest[inner.training], rest[inner.validation], test)

    def _predictions(
        self, picked: NDArray[np.int64], probabilities: dict[str, NDArray[np.float64]]
    ) -> Predictions:
        return Predictions.of(
            self.crops,
            picked,
            self.crops.tasks,
            self.crops.targets[picked],
            probabilities,
            self.positive,
            self.settings.threshold,
        )

    def _cautions(self) -> list[str]:
        """What a network that the recipe starts from has seen of the test images."""
        found = []
        for name in ("initial", "teacher"):
            folder = getattr(self.settings, name)
            if folder is None:
                continue
            learned = learned_digests(folder)
            seen = sum(digest in learned for digest in self.crops.digests)
            if seen:
                found.append(
                    f"{name}={folder} has learned from {seen} of the {len(self.crops.digests)}"
                    " images, test folds included: these are no results on new images"
                )
        return found


def _task_summary(
    pooled: Predictions, task: str, measured: dict[str, Any], lines: list[Line]
) -> dict[str, Any]:
    by_fold = [fold_metrics(line, task) for line in lines]
    summaries = {metric: fold_summary([fold.get(metric) for fold in by_fold]) for metric in SCALARS}
    number = list(pooled.tasks).index(task)
    graded = pooled.truth[:, number] != UNLABELLED
    called, truth = pooled.called(task)[graded], pooled.truth[graded, number]
    apart: dict[str, Any] = {
        name: measured.pop(name) for name in ("within", "day_rule") if name in measured
    }
    return {
        "task": task,
        **{
            kind: {metric: own[kind] for metric, own in summaries.items()}
            for kind in ("mean", "sd", "ci95")
        },
        "pooled": measured,
        **apart,
        # One letter an image, a for the first class, in the order of their pixel digests.
        "calls": {"truth": _letters(truth), "called": _letters(called)},
    }


def _letters(labels: NDArray[np.int64]) -> str:
    return "".join(chr(ord("a") + int(label)) for label in labels)


def _heard(on_epoch: Callable[[int, Line], None], number: int) -> OnEpoch:
    return lambda line: on_epoch(number, line)


def _write_json(place: str, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    storage.write_bytes(place, text.encode())
