"""What a finished job has to show: tables in several formats, and a patient at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import polars as pl

from fertiray import parquet, storage
from fertiray.data import crops
from fertiray.evaluation.intervals import wilson
from fertiray.scoring import wording
from fertiray.scoring.aggregate import to_csv
from fertiray.scoring.contents import pictures, rejects_by_patient, table
from fertiray.scoring.figures import class_colours
from fertiray.scoring.report import REPORT
from fertiray.scoring.verdicts import VERDICTS, ModelInfo
from fertiray.serving.jobs import Job
from fertiray.serving.places import Places

Format = Literal["json", "csv", "parquet", "html"]
Table = Literal["patients", "slides", "scores", "rejects"]

TYPES = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
    "html": "text/html; charset=utf-8",
}

Row = dict[str, Any]


def content(run: str, name: Table, form: Literal["csv", "parquet", "html"]) -> bytes:
    """A table of a run as a file's bytes; ``html`` is the whole report.

    Raises:
        InputError: the run folder lacks it.
    """
    if form == "html":
        return storage.read_bytes(storage.join(run, REPORT))
    if name in ("patients", "slides"):
        return storage.read_bytes(storage.join(run, f"{name}.{form}"))
    frame = _parts(run, name)
    if form == "csv":
        return to_csv(frame).encode()
    return parquet.to_bytes(frame)


def rows(run: str, name: Table) -> list[Row]:
    """A table of a run as JSON values; what is not known is None."""
    frame = table(run, f"{name}.parquet") if name in ("patients", "slides") else _parts(run, name)
    return frame.fill_nan(None).to_dicts()


def _parts(run: str, name: str) -> pl.DataFrame:
    files = storage.list_files(storage.join(run, name), ".parquet")
    parts = [parquet.read(file) for file in files]
    return pl.concat(parts).sort("crop_id")


def names(run: str) -> list[str]:
    """The patients of a run, sorted: a patient's number is the place in this list.

    Addresses carry the number, so that no patient identifier gets into a log.
    """
    return sorted(table(run, "patients.parquet")["patient_id"].unique())


def cohort(run: str, infos: Mapping[str, ModelInfo]) -> list[Row]:
    """Every patient: ``number``, ``patient_id`` and ``results``, one a model, with flags."""
    by_name: dict[str, list[Row]] = {name: [] for name in names(run)}
    for row in rows(run, "patients"):
        known = {"row": row, "side": side(row, infos[row["model"]]), "flags": flags(row)}
        by_name[row["patient_id"]].append(known)
    return [
        {"number": number, "patient_id": name, "results": own}
        for number, (name, own) in enumerate(by_name.items())
    ]


def patient(places: Places, job: Job, number: int, infos: Mapping[str, ModelInfo]) -> Row:
    """Everything that is shown of one patient.

    Args:
        places: of the service.
        job: a finished one.
        number: place in :func:`names`.
        infos: the job's models by name.

    Returns:
        The patient as in :func:`cohort`; each result has the sentences of the report, class mix,
        slides and pictures beside; and ``rejects``.
    """
    run = places.run(job)
    own = cohort(run, infos)[number]
    name = own["patient_id"]
    slides = table(run, "slides.parquet").filter(patient_id=name).fill_nan(None)
    gallery = pictures(run)
    results = []
    for result in own["results"]:
        row, info = result["row"], infos[result["row"]["model"]]
        results.append(
            {
                **result,
                "title": wording.TASKS[info.task].title,
                "text": wording.verdict_text(row, info),
                "second": wording.second_reading(row, info),
                "conflict": wording.conflict_text(row),
                "slides_text": wording.slides_text(row),
                "slides": slides.filter(model=row["model"]).sort("slide_id").to_dicts(),
                "mix": _mix(row, info),
                "pictures": [
                    {key: crop[key] for key in ("crop_id", "kind", "label", "confidence", "image")}
                    for (model, whose, _, _), found in gallery.items()
                    if (model, whose) == (row["model"], name)
                    for crop in found
                ],
            }
        )
    rejects = rejects_by_patient(run, places.store(job)).get(name, [])
    return {**own, "results": results, "rejects": rejects}


def flags(row: Row) -> list[str]:
    """What makes a patient's number doubtful, in a few words each."""
    found = []
    if row["slide_p"] is not None and row["slide_p"] < wording.DISAGREE:
        found.append("slides disagree")
    if row["validation_conflict"]:
        found.append("accuracy does not fit")
    known = row.get("n_unlike") is not None and row["n_scored"]
    if known and wilson(row["n_unlike"], row["n_scored"]).low > 2 * wording.UNLIKE_EXPECTED:
        found.append("unlike the training's")
    return found


def side(row: Row, info: ModelInfo) -> str:
    """``above``, ``below``, ``indeterminate`` or ``no result``: picks mark and colour."""
    verdict: str = row["verdict"]
    return {text: side for side, text in VERDICTS[info.task].items()}.get(verdict, verdict)


def _mix(row: Row, info: ModelInfo) -> list[Row]:
    colours = class_colours(info.classes, info.positive)
    mix = []
    for label in info.classes if row["n_scored"] else ():
        n = row[f"n_{label}"]
        low, high = wilson(n, row["n_scored"])
        share = {"share": n / row["n_scored"], "low": float(low), "high": float(high)}
        mix.append({"label": label, "n": n, **share, "colour": colours[label]})
    return mix


def crop_image(store: str, crop_id: str) -> bytes | None:
    """A crop's encoded image by its id; None where the store has no such crop."""
    for group in crops.row_groups(store):
        ids = crops.read_row_group(store, group, ["crop_id"]).column("crop_id").to_pylist()
        if crop_id in ids:
            images = crops.read_row_group(store, group, ["image"]).column("image")
            image: bytes = images[ids.index(crop_id)].as_py() or b""
            return image
    return None
