"""The verbs that weigh evidence: explain, validate, compare, figures, annotators, report paper."""

from __future__ import annotations

import json as jsonlib
from typing import Annotated, Any, Literal

import typer

from fertiray import console, storage
from fertiray.cli_options import Device, Json
from fertiray.console import Result, show
from fertiray.errors import InputError

app = typer.Typer()

Seed = Annotated[int, typer.Option(help="Of the bootstrap and other draws.")]


@app.command()
def explain(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint folder.")],
    images: Annotated[str, typer.Argument(help="Image, folder of images, or crop store.")],
    out: Annotated[str, typer.Option(help="Folder for overlays and maps.")],
    method: Annotated[
        Literal["gradcam", "gradcam++", "saliency"], typer.Option(help="How to explain.")
    ] = "gradcam",
    layer: Annotated[
        list[str] | None, typer.Option(help="Named layer; repeat for several. The last by default.")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--class", help="Class to explain; the called one by default.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Task of a multi-task network.")] = None,
    sanity: Annotated[
        Literal["none", "last", "cascade"],
        typer.Option(help="Check the maps against those of randomised weights."),
    ] = "none",
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many images.")] = None,
    device: Device = "cpu",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Show where a network looks: heatmaps, overlays, and how much of them lies on the head."""
    from fertiray.evaluation.explain.run import explain as run_explain

    with console.stdout_kept_clean():
        values = run_explain(
            checkpoint,
            images,
            method=method,
            out=out,
            layers=layer,
            target=target,
            task=task,
            sanity=sanity,
            limit=limit,
            device=device,
            seed=seed,
        )
    rows = [
        [name, _spread(found["inside_head"]), _spread(found["area_share"])]
        for name, found in values["summary"]["layers"].items()
    ]
    table = console.table("layer", "share inside the head", "share of the area", rows=rows)
    show(Result(values, table, [f"{len(values['maps'])} maps in {out}"]), as_json=json)


def _spread(found: dict[str, Any] | None) -> str:
    if not found or found["mean"] is None:
        return "–"
    return f"{found['mean']:.3f} ± {found['sd']:.3f}" if found["sd"] is not None else "–"


@app.command()
def validate(
    patients: Annotated[str, typer.Argument(help="Run folder, or CSV or Parquet of patients.")],
    outcomes: Annotated[str, typer.Argument(help="CSV: patient_id, fertilisation_rate, ...")],
    out: Annotated[str, typer.Option(help="Folder for tables and figures.")],
    model: Annotated[str | None, typer.Option(help="Which model's results.")] = None,
    value: Annotated[str, typer.Option(help="Column that is compared.")] = "fraction",
    threshold: Annotated[
        float | None, typer.Option(help="Named beforehand, a share of 1; else the run's.")
    ] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Compare patients' results with the fertilisation that followed."""
    from fertiray.evaluation.clinical import validate as run_validate
    from fertiray.evaluation.figures.gallery import cohort_figures

    with console.stdout_kept_clean():
        values = run_validate(
            patients, outcomes, model=model, out=out, value=value, threshold=threshold, seed=seed
        )
        values["figures"] = cohort_figures(values, out)
    area, youden = values["roc"]["auc"], values["roc"]["youden"]
    rows = [
        [name, str(group["n"]), f"{group['mean']:.1%} ± {group['sem']:.1%}"]
        for name, group in values["groups"].items()
    ]
    lines = [
        f"high against low fertilisation: ROC-AUC {area['auc']:.3f}"
        f" ({area['ci'][0]:.3f} to {area['ci'][1]:.3f}), Youden threshold"
        f" {youden['threshold']:.1%}",
        *(f"caution: {caution}" for caution in values["cautions"]),
    ]
    table = console.table("fertilisation", "patients", f"{value}, mean ± SEM", rows=rows)
    show(Result(values, table, lines), as_json=json)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(help="Folder of a cross-validation.")],
    second: Annotated[str, typer.Argument(help="Another, over the same folds.")],
    json: Json = False,
) -> None:
    """Test two cross-validations over the same folds against each other."""
    from fertiray.evaluation.comparison import compare as run_compare

    results = []
    for folder in (first, second):
        place = storage.join(folder, "crossval.json")
        if not storage.exists(place):
            raise InputError(f"{place}: no such file; give what crossval --out wrote")
        results.append(jsonlib.loads(storage.read_bytes(place)))
    values = run_compare(*results)
    rows = []
    for task, found in values.items():
        for metric, test in found.items():
            if metric == "mcnemar":
                rows.append([task, metric, f"{test['only_a']} : {test['only_b']}", _p(test["p"])])
            else:
                rows.append([task, metric, f"{test['mean']:+.4f}", _p(test["corrected"]["p"])])
    columns = ("task", "measure", "first - second", "p (corrected t, McNemar)")
    show(Result(values, console.table(*columns, rows=rows)), as_json=json)


def _p(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


@app.command()
def figures(
    out: Annotated[str, typer.Option(help="Folder to write.")],
    crossval: Annotated[
        list[str] | None, typer.Option(help="Folder of a cross-validation; repeat for several.")
    ] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Checkpoint folder.")] = None,
    data: Annotated[str | None, typer.Option(help="Labelled images for the checkpoint.")] = None,
    patients: Annotated[str | None, typer.Option(help="As validate's first argument.")] = None,
    outcomes: Annotated[str | None, typer.Option(help="As validate's second argument.")] = None,
    limit: Annotated[int, typer.Option(min=2, help="Most images that t-SNE takes.")] = 500,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Draw every figure that the inputs allow, as SVG and PNG, with a page of them all."""
    from fertiray.evaluation.figures.gallery import gallery

    if (patients is None) != (outcomes is None):
        raise InputError("--patients and --outcomes belong together: give both or neither")
    pair = (patients, outcomes) if patients is not None and outcomes is not None else None
    with console.stdout_kept_clean():
        values = gallery(
            out,
            crossval=crossval or [],
            checkpoint=checkpoint,
            data=data,
            outcomes=pair,
            limit=limit,
            seed=seed,
        )
    rows = [[figure["name"], figure["caption"]] for figure in values["figures"]]
    lines = [f"left out: {part['name']}: {part['why']}" for part in values["left_out"]]
    show(Result(values, console.table("figure", "what", rows=rows), lines), as_json=json)


@app.command()
def annotators(
    labels: Annotated[str, typer.Argument(help="Folder: complete.csv and annotations/*.csv.")],
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Measure how well annotators of Gardner grades agree, with each other and the consensus."""
    from fertiray.evaluation.annotators import gardner_agreement

    with console.stdout_kept_clean():
        values = gardner_agreement(labels, seed=seed)
    show(Result(values), as_json=json)
