"""``fertiray tune``: ablation grids and hyperparameter search through Ray Tune."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from fertiray import console
from fertiray.cli_options import (
    MOST_SEED,
    Address,
    Device,
    Json,
    Labelled,
    Local,
    PaperKey,
    Record,
    Settings,
)
from fertiray.console import show

app = typer.Typer()


@app.command()
def tune(
    paper: PaperKey,
    data: Labelled,
    grid: Annotated[str | None, typer.Option(help="One of the paper's ablations.")] = None,
    search: Annotated[str | None, typer.Option(help="One of its search spaces.")] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder of the studies; runs/tune/PAPER by default.")
    ] = None,
    settings: Settings = None,
    folds: Annotated[int, typer.Option(min=2, help="Of each cell's cross-validation.")] = 5,
    repeats: Annotated[int, typer.Option(min=1, help="Cross-validations of each cell.")] = 1,
    seed: Annotated[
        int, typer.Option(min=0, max=MOST_SEED, help="Of the folds, or of the search.")
    ] = 42,
    held_out: Annotated[
        str | None, typer.Option(help="Labelled folder: how many negatives are called positive?")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials of a search.")] = 20,
    algorithm: Annotated[
        Literal["asha", "tpe"],
        typer.Option(help="Random or Optuna's TPE; both stop poor trials early (ASHA)."),
    ] = "asha",
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Without pretrained weights.")
    ] = False,
    concurrent: Annotated[
        int | None, typer.Option(min=1, help="Trials at a time; by default as many as fit.")
    ] = None,
    gpus_per_trial: Annotated[float | None, typer.Option(min=0, help="Such as 0.5.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Ray Train workers of each trial.")] = 1,
    local: Local = False,
    device: Device = "cpu",
    address: Address = None,
    record: Record = False,
    json: Json = False,
) -> int:
    """Run a paper's ablation grid, or search its hyperparameters."""
    from fertiray.tuning.command import tune as run_tune
    from fertiray.tuning.trials import Wanted

    with console.stdout_kept_clean():
        result = run_tune(
            paper,
            data,
            grid=grid,
            search=search,
            out=out,
            settings=settings or [],
            folds=folds,
            repeats=repeats,
            seed=seed,
            held_out=held_out,
            trials=trials,
            algorithm=algorithm,
            from_scratch=from_scratch,
            wanted=Wanted(concurrent, gpus_per_trial, workers),
            local=local,
            device=device,
            address=address,
            record=record,
        )
    if json:
        show(result, as_json=True)
    else:
        for line in result.lines:
            print(line)
    return 1 if result.values["failed"] else 0
