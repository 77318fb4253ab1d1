"""``fertiray demo``: the whole path, on a cohort whose truth is known or on real smear fields."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from fertiray import console, storage
from fertiray.checkpoint import read_meta
from fertiray.console import Result, notices
from fertiray.data.extract import segment_store
from fertiray.data.synthetic import synth_fields
from fertiray.errors import InputError
from fertiray.pipeline import run_fields
from fertiray.scoring.verdicts import INDETERMINATE, VERDICTS, ModelInfo
from fertiray.studies import train_paper

# Many patients: stains differ between them, and the network, and its validation, must see that.
TRAINING = {"patients": 48, "crops": 200}
COHORT = {"patients": 6, "crops": 600}
# The paper trains for 50 epochs in batches of 6 on grey crops; the demo has minutes, and stains
# that differ between patients: smaller crops, fewer steps, stain density instead of grey, and
# a threshold for few false alarms, which matter most where few heads bind.
QUICK = [
    *("epochs=10", "batch_size=32", "optimizer=adamw", "lr=3e-3", "schedule=onecycle"),
    *("preprocessing.size=64", "preprocessing.colour=density"),
    *("preprocessing.mean=[0.5]", "preprocessing.std=[0.5]"),
    *("threshold=0.8", "validation=0.33"),
]

# The acquisition date in a file name of the smear fields stands for a patient.
SESSION = r"(\d{4}-\d{2}-\d{2})"
# Columns of the patient table that a result of record keeps.
ESTIMATE = (
    *("patient_id", "n_scored", "n_positive", "fraction", "ci_low", "ci_high"),
    *("prevalence", "prevalence_ci_low", "prevalence_ci_high", "verdict"),
)
REAL_NOTES = (
    "The network was trained on HuSHeM: Diff-Quik heads under another microscope. These fields are"
    " stained blue. Both are seen in one frame (axis vertical, acrosome up, one window in head"
    " lengths) and as stain density instead of colour, but its sensitivity and specificity were"
    " measured on HuSHeM and need not hold here.",
    "HuSHeM holds clear examples of four shapes, one of them normal, not a sample of sperm: the"
    " share called Normal is not the percentage of normal forms by WHO's strict criteria.",
    "A 'patient' here is an acquisition session, of unknown men: the numbers show that the path"
    " works. They are not a finding about anybody.",
)


def synthetic_demo(out: Path, *, seed: int, workers: int, local: bool) -> Result:
    """Draws fields, segments, trains, scores on Ray and compares every patient with the truth.

    Args:
        out: folder to work in; a repeated call goes on where the last one stopped.
        seed: names the cohort; the training cohort has another.
        workers: processes and actors.
        local: score without Ray.
    """
    notices.rule("1  A training cohort: smear fields whose every head has a known label")
    _draw(out / "training", seed + 1000, workers, fractions=0.5, **TRAINING)
    notices.rule("2  Its heads, cut out and aligned as those of a patient will be")
    _cut(out / "training", out / "training-crops", workers, labels="heads")
    notices.rule("3  The paper's small CNN, trained on them")
    checkpoint = _train(out, "zona_vgg13", "basic_cnn", out / "training-crops", QUICK)
    notices.rule("4  A cohort of patients: smear fields, bound fractions from 0.5% to 30%")
    truth = _draw(out / "fields", seed, workers, **COHORT)
    notices.rule("5  From fields to each patient's number")
    ran = run_fields(
        str(out / "fields"), [checkpoint], str(out), workers=workers, local=local,
        notes=["A synthetic cohort: drawn, not photographed. The numbers are about no patient."],
    )  # fmt: skip
    return _compare(ran, truth)


def real_demo(out: Path, *, seed: int, workers: int, local: bool) -> Result:
    """Trains a morphology network on HuSHeM and runs the smear fields through it.

    Args:
        out: folder to work in; a repeated call goes on where the last one stopped.
        seed: of the training.
        workers: processes and actors.
        local: score without Ray.

    Raises:
        InputError: ``FERTIRAY_DATA`` is not set or lacks a set.
    """
    data = os.environ.get("FERTIRAY_DATA")
    if not data:
        raise InputError("FERTIRAY_DATA is not set: point it at a folder with hushem, smear_fields")
    for name in ("hushem", "smear_fields"):
        if not (Path(data) / name).is_dir():
            raise InputError(f"FERTIRAY_DATA={data}: has no folder {name}")
    notices.rule("1  HuSHeM heads in their own frame")
    heads = _cut(Path(data) / "hushem", out / "hushem", workers, labels="folder", single=True)
    notices.rule("2  A morphology network")
    settings = [f"seed={seed}"]
    checkpoint = _train(out, "sperm_effnet_cbam", "efficientnet_lite0", out / "hushem", settings)
    notices.rule("3  From real fields to a number per session")
    fields = str(Path(data) / "smear_fields" / "images")
    ran = run_fields(
        fields, [checkpoint], str(out), group_by=SESSION, workers=workers, local=local,
        notes=REAL_NOTES,
    )  # fmt: skip
    patients = pl.read_parquet(out / "patients.parquet")
    fields_of = _fields_by_patient(out / "crops")
    rows = [
        [
            row["patient_id"],
            row["n_scored"],
            f"{row['fraction']:.1%}",
            f"{row['ci_low']:.1%} to {row['ci_high']:.1%}",
            f"{row['prevalence_ci_low']:.1%} to {row['prevalence_ci_high']:.1%}",
            row["verdict"],
        ]
        for row in patients.iter_rows(named=True)
    ]
    columns = ("session", "heads", "called normal", "95% CI", "corrected 95% CI", "verdict")
    meta = asdict(read_meta(checkpoint))
    sessions = [
        {**{key: row[key] for key in ESTIMATE}, "fields": fields_of[row["patient_id"]]}
        for row in patients.iter_rows(named=True)
    ]
    model = {key: meta[key] for key in ("model", "metrics", "operating", "data_digest")}
    return Result(
        {
            **ran,
            "sessions": sessions,
            "training_heads": heads["labelled"],
            "model": model,
            "data_digest": _source_digest(out / "crops"),
        },
        console.table(*columns, rows=rows),
        lines=[f"report: {ran['report']}"],
    )


def _source_digest(store: Path) -> str:
    settings = json.loads((store / "store.json").read_text())["settings"]
    return str(settings["source_digest"])


def _fields_by_patient(store: Path) -> dict[str, int]:
    """Fields that each patient's crops come from."""
    counted = pl.scan_parquet(store / "part-*.parquet").group_by("patient_id")
    return dict(counted.agg(pl.col("field").n_unique()).collect().iter_rows())


def _draw(folder: Path, seed: int, workers: int, **cohort: Any) -> dict[str, Any]:
    if folder.exists() and not (folder / "truth.json").exists():
        shutil.rmtree(folder)  # an earlier call was stopped while drawing; the truth comes last
    with console.progress("drawing", "fields") as progress:
        return synth_fields(folder, seed=seed, workers=workers, progress=progress, **cohort)


def _cut(fields: Path, store: Path, workers: int, **options: Any) -> dict[str, Any]:
    with console.progress("segmenting", "fields") as progress:
        return segment_store(str(fields), str(store), workers=workers, progress=progress, **options)


def _train(out: Path, paper: str, model: str, data: Path, settings: list[str]) -> str:
    """Trains unless an earlier call did, and gives the checkpoint folder."""
    folder = str(out / model)
    if storage.exists(storage.join(folder, "meta.json")):
        notices.print(f"{folder} is there already")
        return folder
    result = train_paper(paper, model, settings, str(data), folder)
    operating = result["operating"]
    notices.print(
        f"sensitivity {operating['sensitivity']:.3f} of {operating['n_positive']},"
        f" specificity {operating['specificity']:.3f} of {operating['n_negative']} held-out heads"
    )
    return folder


def _compare(ran: dict[str, Any], truth: dict[str, Any]) -> Result:
    """Every patient's estimate beside the truth."""
    threshold = ModelInfo("", "zona", (), "").threshold
    words = VERDICTS["zona"]
    estimates = pl.read_parquet(Path(ran["run"]) / "patients.parquet")
    by_patient = {row["patient_id"]: row for row in estimates.iter_rows(named=True)}
    rows, patients = [], []
    for known in truth["patients"]:
        row = by_patient[known["patient_id"]]
        share = known["truth_bound_fraction"]
        covered = row["prevalence_ci_low"] <= share <= row["prevalence_ci_high"]
        right = words["above" if share > threshold else "below"]
        state = {right: "right", INDETERMINATE: "undecided"}.get(row["verdict"], "WRONG")
        patients.append(
            {
                **{key: row[key] for key in ESTIMATE},
                "truth_bound_fraction": share,
                "covered": covered,
                "state": state,
            }
        )
        rows.append(
            [
                known["patient_id"],
                f"{row['n_scored']} of {known['n']}",
                f"{share:.1%}",
                f"{row['fraction']:.1%}",
                f"{row['prevalence']:.1%}",
                f"{row['prevalence_ci_low']:.1%} to {row['prevalence_ci_high']:.1%}",
                "yes" if covered else "NO",
                row["verdict"],
                state,
            ]
        )
    columns = (
        *("patient", "scored", "truth", "called bound", "prevalence", "95% CI", "truth inside"),
        *("verdict", "against truth"),
    )
    states = [patient["state"] for patient in patients]
    lines = [
        f"truth inside the interval for {sum(p['covered'] for p in patients)} of {len(patients)}"
        f" patients; verdicts: {states.count('right')} right, {states.count('undecided')}"
        f" undecided, {states.count('WRONG')} wrong",
        f"report: {ran['report']}",
    ]
    digest = _source_digest(Path(ran["run"]) / "crops")
    return Result(
        {**ran, "patients": patients, "data_digest": digest},
        console.table(*columns, rows=rows),
        lines=lines,
    )
