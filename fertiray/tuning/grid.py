"""``fertiray tune PAPER --grid NAME``: a paper's ablation, every cell on the same folds."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from fertiray import config, storage
from fertiray.data.labelled import LabelledCrops
from fertiray.errors import InputError
from fertiray.evaluation.results import origin
from fertiray.papers import Paper
from fertiray.training.config import TrainConfig
from fertiray.training.crossval import crossval
from fertiray.tuning.cells import Cell, Grid
from fertiray.tuning.config_file import write_config
from fertiray.tuning.drawings import grid_figures
from fertiray.tuning.efficiency import efficiency
from fertiray.tuning.files import absolute, write_json, write_study
from fertiray.tuning.summary import Done, best_cell, settings_columns, summarise, trial_rows
from fertiray.tuning.tables import grid_table
from fertiray.tuning.trials import Executor, Trial, cell_settings, one_line, plan
from fertiray.tuning.views import Views

AGAIN = "delete it, and its part is done again"

Progress = Callable[[int, int], None]
Notice = Callable[[str], None]
Open = Callable[[], AbstractContextManager[Executor]]


def chosen(paper: Paper, name: str) -> Grid:
    """A paper's grid.

    Raises:
        InputError: there is none of that name; lists those there are.
    """
    if name not in paper.grids:
        raise InputError(
            f"--grid {name}: {paper.name} has no such grid; choose one of: {', '.join(paper.grids)}"
        )
    return paper.grids[name]


def run_grid(
    paper: Paper,
    name: str,
    data: str,
    out: str,
    executor: Open,
    *,
    settings: Sequence[str] = (),
    folds: int = 5,
    repeats: int = 1,
    seed: int = 42,
    held_out: str | None = None,
    from_scratch: bool = False,
    progress: Progress = lambda done, total: None,
    notice: Notice = lambda text: None,
) -> dict[str, Any]:
    """Runs the trials of a grid that are not done yet and sums all of them up.

    What cannot be trained at all is refused before anything runs. A trial that fails is marked, and
    the study goes on; the same call tries it again.

    Args:
        paper: declares the grid.
        name: of the grid.
        data: labelled folder or labelled crop store, local or ``s3://``.
        out: the studies' folder, local or ``s3://``: cells are shared by all grids in it, and the
            result lies in ``OUT/NAME``.
        executor: opens what trials run on.
        settings: ``key=value`` changes of all cells; a cell's own have the last word.
        folds: of each cell's cross-validation.
        repeats: cross-validations of each cell, over other folds and with other seeds.
        seed: of the first one's folds.
        held_out: labelled folder whose crops of the negative classes each network is shown.
        from_scratch: no pretrained weights.
        progress: called with the trials that are done, and all of them.
        notice: called with a line for each trial that ends.

    Returns:
        ``trials`` and ``cells`` (:mod:`fertiray.tuning.summary`); ``best``
        (:func:`~fertiray.tuning.summary.best_cell`, with ``config``, the file of its recipe);
        ``table`` (Markdown) and ``files``; ``ran``, ``kept`` and ``failed`` (numbers of trials),
        ``seconds`` and ``trials_per_hour`` of this call, and how it was made.

    Raises:
        InputError: an unknown grid, or data or settings that cannot be trained on.
    """
    if folds < 2 or repeats < 1:
        raise InputError(f"--folds {folds}, --repeats {repeats}: give 2 or more, 1 or more")
    grid = chosen(paper, name)
    began = time.perf_counter()
    recipes = [
        (cell, cell_settings(paper, cell, settings, from_scratch=from_scratch))
        for cell in grid.cells
    ]
    aspects = any(own.loss.harc != "none" for _, own in recipes)
    views = Views(paper, data, held_out, aspects=aspects)
    study = _Study(paper, grid, recipes, views, absolute(out), folds, repeats, seed)
    study.run(executor, progress, notice)
    seconds = time.perf_counter() - began
    done = study.done()
    cells = summarise(done, folds)
    folder = storage.join(absolute(out), name)
    best = best_cell(cells, grid.metric)
    if best is not None:
        best["config"] = storage.join(folder, "best.json")
        write_config(best["config"], {cell.name: own for cell, own in recipes}[best["cell"]])
    ran = len(study.pending) - len(study.errors)
    trials = trial_rows(study.trials, study.lines, study.errors, {*study.pending})
    values: dict[str, Any] = {
        "paper": paper.name,
        "grid": name,
        "about": grid.about,
        "trials": trials,
        "cells": cells,
        "best": best,
        "table": grid_table(cells, grid.metric),
        "ran": ran,
        "kept": len(study.places) - len(study.pending),
        "failed": len(study.errors),
        "seconds": seconds,
        "trials_per_hour": 3600 * ran / seconds if ran else None,
        "protocol": {
            "folds": folds,
            "repeats": repeats,
            "images": len(study.described.names),
            "settings": [*settings],
            "held_out": held_out,
            "held_out_seen": views.held_out_seen,
            "from_scratch": from_scratch,
        },
        "origin": origin(seed, study.described.digest),
    }
    columns = {cell.name: settings_columns(own) for cell, own in recipes}
    rows = [{**row, **columns[row["cell"]]} for row in trials]
    values["files"] = write_study(folder, values, rows, grid_figures(grid, done, cells))
    return values


class _Study:
    """The trials of a grid: which there are, which are done, and running the others."""

    def __init__(
        self,
        paper: Paper,
        grid: Grid,
        recipes: list[tuple[Cell, TrainConfig]],
        views: Views,
        out: str,
        folds: int,
        repeats: int,
        seed: int,
    ) -> None:
        self.paper, self.recipes, self.views, self.out = paper, recipes, views, out
        crops = views(recipes[0][1]).crops
        # The sums need labels and folds; the pixels need not stay.
        blank = np.zeros((len(crops.names), 1, 1, 3), np.uint8)
        self.described: LabelledCrops = dataclasses.replace(crops, images=blank)
        self.trials = plan(
            paper,
            recipes,
            out,
            data_digest=crops.digest,
            held_out_digest=views.held_out_digest,
            folds=folds,
            repeats=repeats,
            seed=seed,
        )
        self.places = {trial.place for trial in self.trials}
        there = {*storage.list_files(storage.join(out, "cells"), ".json")}
        # Two cells that are the same are one trial.
        self.pending = {trial.place: trial for trial in self.trials if trial.place not in there}
        self.lines: dict[str, dict[str, Any]] = {}
        self.errors: dict[str, str] = {}
        self.costs: dict[str, Any] = {}
        self.uncosted: dict[str, TrainConfig] = {}
        for _, own in recipes if grid.efficiency else ():
            place = self._cost_place(own)
            if storage.exists(place):
                self.costs[place] = config.read_object(place, AGAIN)
            else:
                self.uncosted[place] = own

    def run(self, executor: Open, progress: Progress, notice: Notice) -> None:
        """Runs what is not done."""
        ended = len(self.places) - len(self.pending)

        def report(trial: Trial, error: str | None) -> None:
            nonlocal ended
            ended += 1
            if error is not None:
                self.errors[trial.place] = error
            what = "done" if error is None else f"failed: {error}"
            notice(f"{trial.cell}, fold {trial.fold}: {what}")
            progress(ended, len(self.places))

        if not self.pending and not self.uncosted:
            return
        with executor() as machine:
            if self.pending:
                machine.trials([*self.pending.values()], self.views, report)
            for place, own in self.uncosted.items():
                try:
                    self.costs[place] = machine.alone(efficiency, own, self.described)
                except Exception as error:  # one measurement is not the study
                    notice(f"{own.model}: its cost is not known: {one_line(error)}")
                else:
                    write_json(place, self.costs[place])

    def done(self) -> list[Done]:
        """All cells, with what is known of them now."""
        for place in sorted(self.places):
            if storage.exists(place):
                self.lines[place] = config.read_object(place, AGAIN)
            else:
                self.errors.setdefault(place, "ended without a result")
        return [self._done(cell, own) for cell, own in self.recipes]

    def _done(self, cell: Cell, settings: TrainConfig) -> Done:
        own = [trial for trial in self.trials if trial.cell == cell.name]
        by_repeat: dict[int, list[Trial]] = {}
        for trial in own:
            by_repeat.setdefault(trial.repeat, []).append(trial)
        whole = {
            repeat: trials[0]
            for repeat, trials in by_repeat.items()
            if all(trial.place in self.lines for trial in trials)
        }
        failed = [trial for trial in own if trial.place in self.errors]
        return Done(
            cell,
            settings,
            own,
            [self.lines[trial.place] for trial in own if trial.place in self.lines],
            {repeat: self._result(trial) for repeat, trial in whole.items()},
            [f"fold {trial.fold}: {self.errors[trial.place]}" for trial in failed],
            self.costs.get(self._cost_place(settings), {}),
        )

    def _result(self, trial: Trial) -> dict[str, Any]:
        """The cross-validation of a cell that has all its folds."""
        place = storage.join(trial.folder, "crossval.json")
        if storage.exists(place):
            return config.read_object(place, AGAIN)
        return crossval(
            self.paper,
            trial.settings,
            self.described,
            folds=trial.folds,
            seed=trial.seed,
            out=trial.folder,
        )

    def _cost_place(self, settings: TrainConfig) -> str:
        return storage.join(self.out, "efficiency", f"{config.digest(settings)}.json")
