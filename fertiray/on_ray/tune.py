"""Studies with Ray Tune: the core's own trials, as many at a time as fit.

A trial of one worker runs in an actor that the next trial takes over: it has imported everything
and finds the data in the object store, so what Tune adds to a short trial is a tenth of a second. A
trial of several workers is a TorchTrainer inside a trial.

Tune's own files go to a folder that is thrown away. What a study knows lies in its own records, and
a study that is begun again is planned from those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import ray
import torch
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.util.placement_group import get_current_placement_group

from fertiray import config, console, storage
from fertiray.errors import InputError
from fertiray.on_ray.cluster import cluster
from fertiray.on_ray.slots import GROUP, Slots, run_tune, settle
from fertiray.on_ray.train import RUNS, RayWorker, make_trainer
from fertiray.tuning.trials import Trial, Wanted, one_line
from fertiray.tuning.views import View, Views

T = TypeVar("T")
Line = dict[str, Any]

RETRIES = 2


@contextmanager
def on_ray(wanted: Wanted, address: str | None = None) -> Iterator[OnRay]:
    """Runs trials on a Ray cluster.

    Args:
        wanted: what each may have.
        address: of the cluster; None for the job's own or a local one.
    """
    with cluster(address, quiet=True):
        yield OnRay(wanted)


class OnRay:
    """Trials on the cluster that is connected; see :class:`fertiray.tuning.trials.Executor`.

    Args:
        wanted: what each may have.
        trainer: a TorchTrainer for trials of one worker too; for comparison.
    """

    def __init__(self, wanted: Wanted, *, trainer: bool = False) -> None:
        self.wanted, self.trainer = wanted, trainer

    def trials(
        self,
        trials: Sequence[Trial],
        views: Views,
        report: Callable[[Trial, str | None], None],
    ) -> None:
        """See ``Executor``."""
        looks = {trial.view: trial.settings for trial in trials}
        stored = {key: ray.put(views(settings)) for key, settings in looks.items()}
        pending: Sequence[Trial] = trials
        for again in range(RETRIES, -1, -1):
            crashed = self._round(pending, stored, report)
            for trial, error in crashed:
                if not again:
                    report(trial, f"crashed {RETRIES + 1} times: {error}")
            pending = [trial for trial, _ in crashed]
            if not again or not pending:
                return
            tell_crashes([error for _, error in crashed])

    def _round(
        self,
        trials: Sequence[Trial],
        views: dict[str, ray.ObjectRef],
        report: Callable[[Trial, str | None], None],
    ) -> list[tuple[Trial, str]]:
        """Runs trials once; those that crashed."""
        slots = Slots.of(self.wanted, len(trials), trainer=self.trainer)
        crashed = []

        def ended(values: Mapping[str, Any], refused: str | None, crash: str | None) -> None:
            trial = trials[values["number"]]
            if crash is not None:
                crashed.append((trial, crash))
            else:
                report(trial, refused)

        job = {"trials": [*trials], "views": views, "slots": slots}
        space = {"number": tune.grid_search([*range(len(trials))])}
        run_tune(_grid_trial, job, space, slots, ended)
        return crashed

    def alone(self, function: Callable[..., T], *arguments: Any) -> T:
        """See ``Executor``."""
        slots = Slots.of(self.wanted, 1)
        task = ray.remote(num_cpus=1, num_gpus=min(1.0, slots.resources.get("GPU", 0)))(_alone)
        found: T = ray.get(task.remote(function, arguments, slots.threads, slots.device))
        return found


def tell_crashes(errors: Sequence[str]) -> None:
    """Says which trials are tried again."""
    for error in errors:
        console.notices.print(f"a trial crashed and is tried again: {error}", markup=False)


def _alone(function: Callable[..., T], arguments: tuple[Any, ...], threads: int, device: str) -> T:
    torch.set_num_threads(threads)
    return function(*arguments, device)


def _grid_trial(values: dict[str, Any], job: dict[str, Any]) -> None:
    """A trial of a grid."""
    trial: Trial = job["trials"][values["number"]]
    slots: Slots = job["slots"]
    view = job["views"][trial.view]
    if slots.trainer:
        refused = train_inside(_grid_worker, {"trial": trial, "view": view}, slots, trial.place)
    else:
        settle(slots)
        refused = _refused(trial, ray.get(view), device=slots.device)
    tune.report({"refused": refused})


def _grid_worker(job: dict[str, Any]) -> str | None:
    """One of several workers of a trial of a grid."""
    worker = Telling()
    return _refused(
        job["trial"],
        ray.get(job["view"]),
        device=worker.device,
        worker=worker.listening,
        keep=worker.rank == 0,
    )


def _refused(trial: Trial, view: View, **options: Any) -> str | None:
    """Runs a trial; why it cannot be trained, where trying again would be no use."""
    try:
        trial.run(view, **options)
    except InputError as error:
        return one_line(error)
    return None


class Telling(RayWorker):
    """A worker of Ray Train whose reports go to Tune, with what it ``says`` beside the metrics."""

    def __init__(self) -> None:
        super().__init__()
        self.says: dict[str, Any] = {GROUP: get_current_placement_group().id.hex()}
        self.heard: Callable[[Line], None] = lambda line: None

    def listening(self, folder: str | None, call: Callable[[Line], None] | None) -> Telling:
        """This worker, for a training whose lines ``call`` hears."""
        self.heard = call or self.heard
        return self

    def report(self, metrics: Line, state: Callable[[], bytes]) -> None:
        """See ``Worker``."""
        self.heard(metrics)
        super().report({**metrics, **self.says}, state)


def train_inside(
    work: Callable[[dict[str, Any]], Any],
    job: dict[str, Any],
    slots: Slots,
    place: str,
) -> Any:
    """A TorchTrainer inside a trial: what its first worker returns; retries are the trial's.

    Args:
        work: runs in each worker.
        job: its argument.
        slots: how many workers, and on what.
        place: of the trial's result; the running state lies beside it.
    """
    folder, _, name = kept(place).rpartition("/")
    trainer = make_trainer(
        work,
        job,
        workers=slots.workers,
        device=slots.device,
        name=name,
        storage_path=folder,
        max_failures=0,
    )
    trainer.run_config.callbacks = [TuneReportCallback()]
    found = trainer.fit().return_value
    storage.remove(kept(place))
    return found


def kept(place: str) -> str:
    """Where the state of a trial with a TorchTrainer is kept."""
    return storage.join(place.rpartition("/")[0], RUNS, config.digest(place))
