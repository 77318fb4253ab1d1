"""One trial of a grid: one cell trained and tested on one fold, and where its result is kept.

A cell's folds lie in a folder that is named by what they are: the recipe, the data's digest, the
folds and the seed. So a fold that is there is done, in whatever study and order, and is not done
again; and a cell that two grids share is trained once. The folder is that of ``fertiray crossval``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from torch import nn

from fertiray import config, storage
from fertiray.errors import InputError, StorageError
from fertiray.models.predict import Predictor, call
from fertiray.models.registry import MODELS
from fertiray.papers import PAPERS, Paper
from fertiray.training.config import TrainConfig
from fertiray.training.crossval import MakeWorker, crossval
from fertiray.training.train import positive_class
from fertiray.tuning.cells import Cell
from fertiray.tuning.files import absolute
from fertiray.tuning.views import View, Views

T = TypeVar("T")


@dataclass(frozen=True)
class Trial:
    """One cell on one fold.

    Attributes:
        cell: its name.
        repeat: which of the repeated cross-validations, from 1.
        fold: from 1.
        paper: key of the paper.
        settings: the recipe.
        folds: of the cross-validation.
        seed: of the folds.
        folder: of the cross-validation.
    """

    cell: str
    repeat: int
    fold: int
    paper: str
    settings: TrainConfig
    folds: int
    seed: int
    folder: str

    @property
    def place(self) -> str:
        """The file that is there when the trial is done."""
        return storage.join(self.folder, f"fold-{self.fold}.json")

    @property
    def view(self) -> str:
        """Key of its view of the data."""
        return Views.key(self.settings)

    def run(
        self,
        view: View,
        *,
        device: str = "cpu",
        worker: MakeWorker | None = None,
        keep: bool = True,
    ) -> None:
        """Trains and tests, going on where it was interrupted.

        Args:
            view: of the data.
            device: a torch device.
            worker: makes the process of the training.
            keep: write the result; one of several workers does.

        Raises:
            InputError: what cannot be trained.
        """
        look = None
        if view.others is not None:
            positive = positive_class(PAPERS[self.paper], view.crops, "the data")
            look = partial(called_positive, self.settings, view, positive, device)
        crossval(
            PAPERS[self.paper],
            self.settings,
            view.crops,
            folds=self.folds,
            seed=self.seed,
            out=self.folder if keep else None,
            device=device,
            only=self.fold,
            worker=worker,
            look=look,
        )


def called_positive(
    settings: TrainConfig, view: View, positive: str, device: str, model: nn.Module
) -> dict[str, float]:
    """The share of held-out negatives that a network calls positive.

    Args:
        settings: the recipe; its threshold decides between two classes.
        view: of the data; has ``others``.
        positive: class name.
        device: a torch device.
        model: a trained network with one task.

    Returns:
        Such as ``unbound_called_bound``.
    """
    assert view.others is not None
    classes = view.crops.classes
    predictor = Predictor(model, settings.preprocessing, device, views=settings.views)
    probabilities, number = predictor(view.others), classes.index(positive)
    model.cpu()
    two = len(classes) == 2
    called = call(probabilities, number, settings.threshold) if two else probabilities.argmax(1)
    negative = classes[1 - number] if two else "others"
    return {f"{negative}_called_{positive}": float((called == number).mean())}


@dataclass(frozen=True)
class Wanted:
    """What trials may have of a cluster.

    Attributes:
        concurrent: trials at a time; None for as many as fit.
        gpus: GPUs a trial, such as 0.5; None for one where the cluster has some.
        workers: training processes a trial; where they are several, on a cluster with GPUs, each
            has one.
    """

    concurrent: int | None = None
    gpus: float | None = None
    workers: int = 1


class Executor(Protocol):
    """Where trials run."""

    def trials(
        self,
        trials: Sequence[Trial],
        views: Views,
        report: Callable[[Trial, str | None], None],
    ) -> None:
        """Runs all of them, whatever happens to one.

        Args:
            trials: what to run.
            views: of the data.
            report: called in this process with each trial as it ends, and with what went wrong in
                one line, None where nothing did.
        """

    def alone(self, function: Callable[..., T], *arguments: Any) -> T:
        """``function(*arguments, device)`` on such a device as the trials have, nothing beside."""


class Here:
    """Trials one after the other, in this process.

    Args:
        device: a torch device.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def trials(
        self,
        trials: Sequence[Trial],
        views: Views,
        report: Callable[[Trial, str | None], None],
    ) -> None:
        """See :class:`Executor`."""
        for trial in trials:
            error = None
            try:
                trial.run(views(trial.settings), device=self.device)
            except StorageError:  # the next would fail too
                raise
            except Exception as caught:  # one trial is not the study
                error = one_line(caught)
            report(trial, error)

    def alone(self, function: Callable[..., T], *arguments: Any) -> T:
        """See :class:`Executor`."""
        return function(*arguments, self.device)


def one_line(error: BaseException) -> str:
    """What went wrong: the message of the user's mistake, or the last line and its type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    if isinstance(error, InputError):
        return last
    return f"{type(error).__name__}: {last}"


def cell_settings(
    paper: Paper, cell: Cell, settings: Sequence[str], *, from_scratch: bool
) -> TrainConfig:
    """The recipe of a cell.

    Args:
        paper: that declares it.
        cell: its own settings have the last word.
        settings: ``key=value`` changes of all cells.
        from_scratch: no pretrained weights, where the network would start from some.

    Raises:
        InputError: a key that does not exist, or a value that does not fit.
    """
    found = config.override(paper.config(cell.model), [*settings, *cell.settings])
    found = dataclasses.replace(
        found,
        initial=found.initial and absolute(found.initial),
        teacher=found.teacher and absolute(found.teacher),
    )
    return untrained(found) if from_scratch else found


def untrained(settings: TrainConfig) -> TrainConfig:
    """The recipe without pretrained weights, where its network would start from some."""
    spec = MODELS.get(settings.model)
    if spec is None or not spec.pretrained:
        return settings
    return dataclasses.replace(settings, model_args={**settings.model_args, "pretrained": False})


def plan(
    paper: Paper,
    cells: Sequence[tuple[Cell, TrainConfig]],
    out: str,
    *,
    data_digest: str,
    held_out_digest: str | None,
    folds: int,
    repeats: int,
    seed: int,
) -> list[Trial]:
    """The trials of a grid, cell by cell.

    Args:
        paper: its paper.
        cells: with their recipes.
        out: the study's folder; cells lie below ``cells``.
        data_digest: identifies the images and labels.
        held_out_digest: identifies the held-out images.
        folds: of each cross-validation.
        repeats: cross-validations of each cell, over other folds and with other seeds.
        seed: of the first one's folds.
    """
    trials = []
    for cell, settings in cells:
        for repeat in range(repeats):
            own = dataclasses.replace(settings, seed=settings.seed + repeat)
            address = config.digest(
                {
                    "paper": paper.name,
                    "settings": dataclasses.asdict(own),
                    "data": data_digest,
                    "held_out": held_out_digest,
                    "folds": folds,
                    "seed": seed + repeat,
                }
            )
            folder = storage.join(out, "cells", address)
            trials += [
                Trial(cell.name, repeat + 1, fold, paper.name, own, folds, seed + repeat, folder)
                for fold in range(1, folds + 1)
            ]
    return trials
