"""The ``fertiray`` command: each verb reads its arguments, calls one function and prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fertiray import console, textfile
from fertiray.cli_bench import app as bench_app
from fertiray.cli_dashboard import dashboard
from fertiray.cli_data import app as data_app
from fertiray.cli_evidence import app as evidence_app
from fertiray.cli_options import (
    MOST_SEED,
    Address,
    Config,
    Device,
    Json,
    Labelled,
    Local,
    Model,
    PaperKey,
    Record,
    Resume,
    Settings,
    Workers,
)
from fertiray.cli_scoring import app as scoring_app
from fertiray.cli_serve import client_app, serve, token_app
from fertiray.cli_tune import app as tune_app
from fertiray.console import Result, show
from fertiray.errors import CountsError, InputError
from fertiray.interrupts import INTERRUPTED, Interrupt
from fertiray.processes import cores

# Typer carries click within itself since 0.26, so its classes are reached through typer's own.
UsageError: type[Any] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="fertiray",
    help="Train, compare and bulk-score the deep-learning models of reproductive medicine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")
app.add_typer(token_app, name="token")
app.add_typer(client_app, name="client")
app.command("serve")(serve)
app.command("dashboard")(dashboard)
app.add_typer(scoring_app)
app.add_typer(evidence_app)
app.add_typer(tune_app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command and exits: 0 done, 1 failed, 2 wrong usage or unusable input, 130 Ctrl-C."""
    interrupt = Interrupt()
    try:
        with interrupt, textfile.exported():
            code = app(args=arguments, standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        # What Ctrl-C interrupts may turn it into an error of its own.
        code = INTERRUPTED if interrupt.came else _failed(error)
    if code == INTERRUPTED:  # typer makes it of Ctrl-C too
        console.notices.print("fertiray: interrupted; the same command goes on where it stopped")
    sys.exit(code if isinstance(code, int) else 0)


def _failed(error: Exception) -> int:
    """Says in one line what is wrong; returns the exit code. Any other error is a fault of ours."""
    if isinstance(error, UsageError):
        where = error.ctx.command_path if error.ctx else "fertiray"
        code, message = 2, f"{where}: {error.format_message()} (see {where} --help)"
    elif isinstance(error, InputError | CountsError):
        code, message = 2 if isinstance(error, InputError) else 1, f"fertiray: {error}"
    else:
        raise error
    console.notices.print(message, style="red", markup=False, soft_wrap=True)
    return code


@app.command()
def doctor(json: Json = False) -> int:
    """Say what is here, what is missing, and how to get it."""
    from fertiray.doctor import examine

    with console.stdout_kept_clean():
        found = examine()
    rows = [[c["name"], c["state"], c["found"], c["remedy"]] for c in found["checks"]]
    table = console.table("check", "state", "found", "what to do", rows=rows)
    show(Result(found, table), as_json=json)
    return 0 if found["ok"] else 1


@app.command()
def models(json: Json = False) -> None:
    """List every network: parameters, multiply-adds and shapes, beside the papers' figures."""
    from fertiray.models.describe import describe_models

    with console.stdout_kept_clean():
        found = describe_models()
    rows = [
        [
            row["name"],
            ", ".join(row["papers"]),
            _beside(row["params"] / 1e6, row["reported"]["params"], 1e6),
            _beside(row["gmacs"], row["reported"]["gmacs"], 1),
            " x ".join(str(side) for side in row["input_shape"][1:]),
            row["note"],
        ]
        for row in found
    ]
    columns = ("model", "papers", "parameters, M (paper)", "GMACs (paper)", "input", "note")
    show(Result(found, console.table(*columns, rows=rows)), as_json=json)


def _beside(ours: float, reported: float | None, unit: float) -> str:
    return f"{ours:.3f}" if reported is None else f"{ours:.3f} ({reported / unit:g})"


@app.command()
def export(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint folder.")],
    out: Annotated[str, typer.Option(help="File to write, .pt2.")],
    json: Json = False,
) -> None:
    """Write a checkpoint as a torch.export program, checked against the network itself."""
    from fertiray.export import export as run_export

    with console.stdout_kept_clean():
        values = run_export(checkpoint, out)
    show(Result(values), as_json=json)


@app.command()
def train(
    paper: PaperKey,
    data: Labelled,
    out: Annotated[str, typer.Option(help="Checkpoint folder to write, local or s3://.")],
    model: Model = None,
    settings: Settings = None,
    config: Config = None,
    split: Annotated[str | None, typer.Option(help="split.json of an earlier training.")] = None,
    device: Device = "cpu",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Ray Train workers; without it, this process trains.")
    ] = None,
    local: Local = False,
    resume: Resume = True,
    address: Address = None,
    json: Json = False,
) -> None:
    """Train one model of a paper."""
    from fertiray.studies import train_paper
    from fertiray.tuning.config_file import with_config

    with console.stdout_kept_clean():
        values = train_paper(
            paper,
            model,
            with_config(config, model, settings),
            data,
            out,
            split=split,
            device=device,
            workers=None if local else workers,
            resume=resume,
            address=address,
        )
    rows = [[name, f"{value:.4g}"] for name, value in values["metrics"].items()]
    show(Result(values, console.table("validation", "value", rows=rows)), as_json=json)


@app.command()
def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint folder.")],
    data: Labelled,
    split: Annotated[
        Literal["training", "validation", "test", "all"] | None,
        typer.Option(help="Part of the data; by default test, or all of a set not trained on."),
    ] = None,
    device: Device = "cpu",
    out: Annotated[str | None, typer.Option(help="Parquet of every image's prediction.")] = None,
    json: Json = False,
) -> None:
    """Measure a checkpoint on labelled images, with confidence intervals."""
    from fertiray.evaluation.tables import measured_rows
    from fertiray.training.evaluate import evaluate as run_evaluate

    with console.stdout_kept_clean():
        values = run_evaluate(checkpoint, data, split=split, device=device, out=out)
    table = console.table("measure", "value", "95% CI", rows=measured_rows(values))
    show(Result(values, table), as_json=json)


@app.command()
def crossval(
    paper: PaperKey,
    data: Labelled,
    folds: Annotated[int, typer.Option(min=2, help="Number of folds.")] = 5,
    model: Model = None,
    settings: Settings = None,
    config: Config = None,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Of the folds.")] = 42,
    members: Annotated[int, typer.Option(min=1, help="Networks a fold, averaged.")] = 1,
    out: Annotated[
        str | None, typer.Option(help="Folder to keep folds in; a repeated call goes on there.")
    ] = None,
    device: Device = "cpu",
    workers: Annotated[int, typer.Option(min=1, help="Folds at a time.")] = 1,
    record: Annotated[
        str | None,
        typer.Option(help="SET:ROW: write the row into dashboards/results/SET.json."),
    ] = None,
    reported: Annotated[
        str | None, typer.Option(help="The paper's row beside it, as PAPER/TABLE/ROW.")
    ] = None,
    note: Annotated[str, typer.Option(help="A remark for the recorded row.")] = "",
    json: Json = False,
) -> None:
    """Train and test on k folds: mean, deviation, t interval, pooled predictions."""
    from fertiray.studies import crossval_paper
    from fertiray.tuning.config_file import with_config

    with console.stdout_kept_clean():
        result = crossval_paper(
            paper,
            model,
            with_config(config, model, settings),
            data,
            folds=folds,
            seed=seed,
            members=members,
            out=out,
            device=device,
            workers=workers,
            record=record,
            reported=reported,
            note=note,
        )
    show(result, as_json=json)


@app.command()
def demo(
    out: Annotated[str, typer.Option(help="Folder to work in.")] = "runs/demo",
    real: Annotated[bool, typer.Option("--real", help="Real fields, from FERTIRAY_DATA.")] = False,
    seed: Annotated[
        int, typer.Option(min=0, max=MOST_SEED, help="Names the synthetic cohort.")
    ] = 0,
    workers: Workers = None,
    local: Local = False,
    record: Record = False,
    json: Json = False,
) -> None:
    """Show the whole path, on a synthetic cohort with known truth or on real smear fields."""
    from fertiray.demo import real_demo, synthetic_demo
    from fertiray.evaluation import results

    run_demo = real_demo if real else synthetic_demo
    with console.stdout_kept_clean():
        result = run_demo(Path(out), seed=seed, workers=workers or cores(), local=local)
        if record:
            name = "real_smear" if real else "demo"
            data_digest = result.values["data_digest"]
            results.record(name, result.values, seed=seed, data_digest=data_digest)
    show(result, as_json=json)


@app.command("results")
def results_command(
    readme: Annotated[Path, typer.Argument(help="File whose marked tables are written anew.")],
    json: Json = False,
) -> None:
    """Render the results of record into a Markdown file's marked places."""
    from fertiray.evaluation.results import render_into

    show(Result(render_into(readme)), as_json=json)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def submit(
    context: typer.Context,
    verb: Annotated[
        Literal["score", "run", "train", "tune", "bench"],
        typer.Argument(help="The command to run."),
    ],
    address: Annotated[
        str | None, typer.Option(help="The cluster's dashboard, http://HOST:8265 by default.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Stream logs until it ends.")
    ] = True,
    python: Annotated[str | None, typer.Option(help="The cluster's Python interpreter.")] = None,
    json: Json = False,
) -> int:
    """Run a command as a Ray job: the arguments after VERB are that command's own."""
    from fertiray.on_ray.submit import submit as run_submit

    with console.stdout_kept_clean():
        values = run_submit(verb, context.args, address=address, wait=wait, python=python)
    show(Result(values), as_json=json)
    return values["exit_code"] or 0
