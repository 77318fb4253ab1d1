"""``fertiray data``: synthetic cohorts and checks of data."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from fertiray import console
from fertiray.cli_options import MOST_SEED, Device, Json, Workers
from fertiray.console import Result, show
from fertiray.processes import cores

app = typer.Typer(help="Synthetic cohorts and data checks.", no_args_is_help=True)


@app.command("synth")
def data_synth(
    out: Annotated[str, typer.Option(help="Folder to write.")],
    patients: Annotated[int, typer.Option(help="Number of patients.")],
    crops: Annotated[int, typer.Option(help="Sperm heads of each patient.")],
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Names the cohort.")] = 0,
    kind: Annotated[
        Literal["crops", "fields"], typer.Option("--as", help="Head crops or whole smear fields.")
    ] = "crops",
    fraction: Annotated[
        float | None, typer.Option(help="Bound fraction of every patient, for training sets.")
    ] = None,
    stain: Annotated[Literal["blue", "pink", "mixed"], typer.Option(help="Look.")] = "blue",
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Write a synthetic cohort with known truth."""
    from fertiray.data.synthetic import synth_crops, synth_fields

    make = synth_crops if kind == "crops" else synth_fields
    with console.stdout_kept_clean(), console.progress("drawing", "images") as progress:
        truth = make(
            out,
            patients=patients,
            crops=crops,
            seed=seed,
            fractions=fraction,
            stain=stain,
            workers=workers or cores(),
            progress=progress,
        )
    rows = [
        [p["patient_id"], p["group"], p["n"], f"{p['truth_bound_fraction']:.2%}"]
        for p in truth["patients"]
    ]
    table = console.table("patient", "group", "heads", "bound", rows=rows)
    show(Result({**truth, "out": out}, table), as_json=json)


@app.command("eval-segmentation")
def data_eval_segmentation(
    folder: Annotated[
        str, typer.Argument(help="Annotated fields, or class folders with --single.")
    ],
    only: Annotated[str | None, typer.Option(help="Regular expression: these files only.")] = None,
    exclude: Annotated[str | None, typer.Option(help="Regular expression: not these.")] = None,
    single: Annotated[bool, typer.Option("--single", help="One head an image.")] = False,
    json: Json = False,
) -> None:
    """Compare segmented heads with annotated ones: precision, recall, F1, IoU, seconds a field."""
    from fertiray.evaluation.segmentation import evaluate_fields, evaluate_single

    with console.stdout_kept_clean():
        if single:
            values = evaluate_single(folder)
        else:
            values = evaluate_fields(folder, only=only, exclude=exclude)
    show(Result(values), as_json=json)


@app.command("record-segmentation")
def data_record_segmentation(
    data: Annotated[
        str,
        typer.Argument(envvar="FERTIRAY_DATA", help="Folder with smear_fields, hushem and smids."),
    ],
    json: Json = False,
) -> None:
    """Write the segmentation's result of record: annotated fields and single-head sets."""
    from fertiray.evaluation import results
    from fertiray.evaluation.segmentation import record_of

    with console.stdout_kept_clean():
        values = record_of(data)
        digest = results.folder_digest(data)
        place = results.record("segmentation", values, seed=None, data_digest=digest)
    show(Result({**values, "record": str(place)}), as_json=json)


@app.command("check")
def data_check(
    data: Annotated[str, typer.Argument(help="Labelled folder or crop store, local or s3://.")],
    paper: Annotated[str, typer.Option(help="Key of the paper whose classes these are.")],
    csv: Annotated[str | None, typer.Option(help="Table of all findings to write.")] = None,
    json: Json = False,
) -> None:
    """Count a labelled set and list what is wrong with it: duplicates, contradictions, blur."""
    from fertiray.data.quality import quality_report, write_csv
    from fertiray.studies import recipe

    known = recipe(paper, None, [])[0].known
    with console.stdout_kept_clean():
        report = quality_report(data, known)
        if csv is not None:
            write_csv(report, csv)
    rows = [[name, str(report[name])] for name in ("dataset", "images", "usable", "groups")]
    for task, classes in report["classes"].items():
        rows += [[f"{task}: {name}", str(count)] for name, count in classes.items()]
    rows += [[finding, str(count)] for finding, count in report["counts"].items()]
    show(Result(report, console.table("what", "count", rows=rows)), as_json=json)


@app.command("translate")
def data_translate(
    generator: Annotated[str, typer.Argument(help="Generator folder of a trained CycleGAN.")],
    images: Annotated[str, typer.Argument(help="Folder tree of images.")],
    out: Annotated[str, typer.Option(help="Folder to write.")],
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Give images the other look, with the generator of a trained CycleGAN."""
    from fertiray.scoring.translate import translate

    with console.stdout_kept_clean(), console.progress("translating", "images") as progress:
        values = translate(generator, images, out, device=device, progress=progress)
    show(Result(values), as_json=json)
