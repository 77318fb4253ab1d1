"""``fertiray segment``, ``ingest``, ``score``, ``run`` and ``report``: from images to numbers."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from fertiray import console
from fertiray.cli_options import (
    Address,
    Checkpoints,
    Device,
    Engine,
    GroupBy,
    Json,
    Local,
    Resume,
    VerdictBasis,
    Workers,
)
from fertiray.console import Result, show
from fertiray.processes import cores

app = typer.Typer()


@app.command()
def segment(
    fields: Annotated[str, typer.Argument(help="Folder, patient/slide/field tree, or s3:// URI.")],
    out: Annotated[str, typer.Option(help="Crop store to write.")],
    group_by: GroupBy = None,
    single: Annotated[bool, typer.Option("--single", help="One head an image.")] = False,
    labels: Annotated[
        Literal["none", "heads", "folder"],
        typer.Option(help="Label crops from heads.csv, or from class folders."),
    ] = "none",
    head_length: Annotated[
        float | None, typer.Option(help="Median head length in pixels; by default estimated.")
    ] = None,
    workers: Workers = None,
    resume: Resume = True,
    json: Json = False,
) -> None:
    """Cut aligned head crops out of stained smear fields."""
    from fertiray.data.extract import segment_store

    with console.stdout_kept_clean(), console.progress("segmenting", "fields") as progress:
        values = segment_store(
            fields,
            out,
            group_by=group_by,
            workers=workers or cores(),
            single=single,
            labels=None if labels == "none" else labels,
            head_length=head_length,
            progress=progress,
            resume=resume,
        )
    show(Result(values), as_json=json)


@app.command()
def ingest(
    crops: Annotated[str, typer.Argument(help="Tree patient/slide/image, local or s3://.")],
    out: Annotated[str, typer.Option(help="Crop store to write.")],
    group_by: GroupBy = None,
    resume: Resume = True,
    json: Json = False,
) -> None:
    """Turn a folder tree of head crops into a crop store."""
    from fertiray.data.ingest import ingest as run_ingest

    with console.stdout_kept_clean(), console.progress("ingesting", "images") as progress:
        values = run_ingest(crops, out, group_by=group_by, progress=progress, resume=resume)
    show(Result(values), as_json=json)


@app.command()
def score(
    store: Annotated[str, typer.Argument(help="Crop store, local or s3://.")],
    checkpoint: Checkpoints,
    out: Annotated[str, typer.Option(help="Run folder, local or s3://.")],
    engine: Engine = "auto",
    device: Device = "auto",
    workers: Workers = None,
    local: Local = False,
    resume: Resume = True,
    verdict_on: VerdictBasis = "prevalence",
    adaptive: Annotated[
        bool,
        typer.Option(
            "--adaptive/--no-adaptive", help="Stop a patient once the verdict is decided."
        ),
    ] = False,
    alpha: Annotated[float, typer.Option(help="Adaptive: chance of a verdict too high.")] = 0.01,
    beta: Annotated[float, typer.Option(help="Adaptive: chance of a verdict too low.")] = 0.01,
    note: Annotated[list[str] | None, typer.Option(help="A caution for the report.")] = None,
    address: Address = None,
    json: Json = False,
) -> None:
    """Score every crop of a store, patient by patient, and write the report."""
    from fertiray.pipeline import chooser, runner, session
    from fertiray.scoring.adaptive import Adaptive
    from fertiray.scoring.run import score as run_score
    from fertiray.scoring.shards import ScoringJob

    job = ScoringJob(store, tuple(checkpoint), out, device=device, engine=engine)
    with console.stdout_kept_clean(), console.progress("scoring", "crops") as progress:
        values = run_score(
            job,
            runner(local=local, address=address),
            workers=workers or cores(),
            resume=resume,
            verdict_on=verdict_on,
            adaptive=Adaptive(alpha, beta) if adaptive else None,
            notes=note or [],
            progress=progress,
            session=session(local=local, address=address),
            choose=chooser(local=local),
        )
    show(Result(values), as_json=json)


@app.command("run")
def run_command(
    fields: Annotated[str, typer.Argument(help="Folder, patient/slide/field tree, or s3:// URI.")],
    checkpoint: Checkpoints,
    out: Annotated[str, typer.Option(help="Run folder.")],
    group_by: GroupBy = None,
    engine: Engine = "auto",
    device: Device = "auto",
    workers: Workers = None,
    local: Local = False,
    resume: Resume = True,
    verdict_on: VerdictBasis = "prevalence",
    note: Annotated[list[str] | None, typer.Option(help="A caution for the report.")] = None,
    address: Address = None,
    json: Json = False,
) -> None:
    """Segment, score, aggregate and report: from stained fields to each patient's number."""
    from fertiray.pipeline import run_fields

    with console.stdout_kept_clean():
        values = run_fields(
            fields,
            checkpoint,
            out,
            group_by=group_by,
            engine=engine,
            device=device,
            workers=workers or cores(),
            local=local,
            address=address,
            resume=resume,
            verdict_on=verdict_on,
            notes=note or [],
        )
    show(Result(values), as_json=json)


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="Run folder, local or s3://; or the word paper.")],
    paper: Annotated[str | None, typer.Argument(help="After the word paper: its key.")] = None,
    out: Annotated[str | None, typer.Option(help="A paper's report as .md or .html.")] = None,
    json: Json = False,
) -> None:
    """Write a run's report again; or, with the word paper, a paper's tables with ours beside."""
    if run == "paper":
        from fertiray.evaluation import paper_report

        values = paper_report.paper_report(paper or "")
        if out is not None:
            values["report"] = paper_report.write(values, out)
        if json:
            show(Result(values), as_json=True)
        else:
            print(paper_report.as_markdown(values))
        return
    from fertiray.scoring.report import write_report

    show(Result({"report": write_report(run)}), as_json=json)
