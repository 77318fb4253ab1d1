"""Training and cross-validation as the command line asks for them: recipe, process, log."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from fertiray import config, console, storage, work
from fertiray.console import Result
from fertiray.errors import InputError
from fertiray.evaluation import results
from fertiray.evaluation.tables import crossval_rows
from fertiray.papers import PAPERS, Paper
from fertiray.papers.reported import reported as reported_row
from fertiray.processes import Workers, cores
from fertiray.training.config import TrainConfig
from fertiray.training.crossval import crossval
from fertiray.training.cyclegan import train_cyclegan
from fertiray.training.cyclegan_config import CycleGANConfig
from fertiray.training.logs import EpochLog
from fertiray.training.train import train
from fertiray.training.worker import LocalWorker

CYCLEGAN = "cyclegan"
EVENTS = "tensorboard"


def recipe(
    paper: str, model: str | None, settings: Sequence[str]
) -> tuple[Paper, TrainConfig | CycleGANConfig]:
    """A paper and one of its recipes with ``key=value`` changes.

    Raises:
        InputError: an unknown paper, model or key, or a value of the wrong type.
    """
    if paper not in PAPERS:
        raise InputError(f"paper {paper!r} is unknown; choose one of: {', '.join(PAPERS)}")
    chosen = PAPERS[paper]
    if chosen.name == "zona_vgg13" and model == CYCLEGAN:
        return chosen, config.override(CycleGANConfig(), settings)
    return chosen, config.override(chosen.config(model), settings)


def train_paper(
    paper: str,
    model: str | None,
    settings: Sequence[str],
    data: str,
    out: str,
    *,
    split: str | None = None,
    device: str = "cpu",
    workers: int | None = None,
    resume: bool = True,
    address: str | None = None,
) -> dict[str, Any]:
    """Trains one recipe, in this process or on Ray.

    Args:
        paper: key of the paper.
        model: one of its recipes, or ``cyclegan`` for zona_vgg13.
        settings: ``key=value`` changes of the recipe.
        data: labelled folder or store; for the CycleGAN a folder of two domains.
        out: checkpoint folder.
        split: file of an earlier split.
        device: torch device, of a training in this process; Ray's workers take GPUs where the
            cluster has some.
        workers: Ray Train workers; None trains in this process.
        resume: go on where an earlier call stopped; else start afresh.
        address: Ray cluster.

    Raises:
        InputError: settings or data that cannot be trained on.
    """
    chosen, recipe_ = recipe(paper, model, settings)
    log = EpochLog(recipe_.epochs, storage.join(out, EVENTS))
    worker = LocalWorker(device, out, log)
    if not resume:
        worker.forget()
    if isinstance(recipe_, CycleGANConfig):
        if workers is not None and workers > 1:
            raise InputError("--workers: the CycleGAN is trained in one process: leave it out")
        values = train_cyclegan(paper, recipe_, data, out, worker)
        worker.forget()
        return values
    if workers is not None:
        # The only place where the training reaches for the shell, and only when it is asked to.
        from fertiray.on_ray.train import train_on_ray

        return train_on_ray(
            paper,
            recipe_,
            data,
            out,
            workers=workers,
            split=split,
            address=address,
            resume=resume,
            on_epoch=log,
        )
    with work.job("train"):
        values = train(chosen, recipe_, data, out, worker=worker, split=split)
    worker.forget()
    return values


def crossval_paper(
    paper: str,
    model: str | None,
    settings: Sequence[str],
    data: str,
    *,
    folds: int = 5,
    seed: int = 42,
    members: int = 1,
    out: str | None = None,
    device: str = "cpu",
    workers: int = 1,
    record: str | None = None,
    reported: str | None = None,
    note: str = "",
) -> Result:
    """Cross-validates one recipe and, where asked for, writes a row of record.

    Args:
        paper: key of the paper.
        model: one of its recipes.
        settings: ``key=value`` changes of the recipe.
        data: labelled folder or store.
        folds: how many.
        seed: of the folds.
        members: networks a fold.
        out: folder that keeps the folds; needed for more than one worker.
        device: torch device.
        workers: folds at a time, each with its share of the cores.
        record: ``SET:ROW``, the result of record and its row.
        reported: the paper's row to print beside it, a key of ``papers.reported``.
        note: a remark for that row.

    Raises:
        InputError: settings or data that cannot be trained on.
    """
    chosen, recipe_ = recipe(paper, model, settings)
    if isinstance(recipe_, CycleGANConfig):
        raise InputError("--model cyclegan: has no classes to cross-validate; use train")
    name, separator, row = (record or "").partition(":")
    if record and not (name and separator and row):
        raise InputError(f"--record {record}: write SET:ROW, such as hushem:my-network")
    if reported is not None:
        reported_row(reported)
    run = partial(
        _crossval, chosen.name, recipe_, data, folds=folds, seed=seed, members=members, out=out,
        device=device,
    )  # fmt: skip
    if workers > 1:
        if out is None:
            raise InputError("--workers: folds at a time need --out, a folder to keep them in")
        threads = max(1, cores() // workers)
        with Workers(workers, torch.set_num_threads, threads) as pool:
            for finished in [pool.submit(run, only=number) for number in range(1, folds + 1)]:
                finished.result()
    values = run()
    if record:
        # The epochs stay with the folds: a result of record is to be read.
        folds_ = [{key: line[key] for key in line if key != "history"} for line in values["folds"]]
        results.append_row(
            name,
            {
                "name": row,
                "reported": reported,
                "note": note,
                "protocol": values["protocol"],
                "result": {**values, "folds": folds_},
            },
        )
    table = console.table("measure", "mean over folds", "95% CI (t)", "all images, 95% CI",
                          rows=crossval_rows(values))  # fmt: skip
    return Result(values, table)


def _crossval(
    paper: str,
    settings: TrainConfig,
    data: str,
    *,
    folds: int,
    seed: int,
    members: int,
    out: str | None,
    device: str,
    only: int | None = None,
) -> dict[str, Any]:
    """One call of :func:`crossval`, with a log of its own, in whatever process this is."""

    def on_epoch(fold: int, line: dict[str, Any]) -> None:
        EpochLog(settings.epochs, name=f"fold {fold}, ")(line)

    return crossval(
        PAPERS[paper],
        settings,
        data,
        folds=folds,
        seed=seed,
        out=out,
        device=device,
        members=members,
        on_epoch=on_epoch,
        only=only,
    )
