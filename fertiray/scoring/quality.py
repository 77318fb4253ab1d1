"""What a run says about itself: how its scores lie to the validation's, and the clinic's metrics.

``quality.parquet`` has one row per model and tenth of the score: crops found and the share that the
nearest mixture of the validation's classes expects. Neither it nor a metric names a patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fertiray import parquet, storage, telemetry
from fertiray.checkpoint import Meta
from fertiray.evaluation.drift import BINS, Drift, drift, score_counts
from fertiray.scoring.verdicts import INDETERMINATE, NO_RESULT, VERDICTS

QUALITY = "quality.parquet"


def write_quality(run: str, metas: Sequence[Meta], patients: pl.DataFrame) -> dict[str, Any]:
    """Writes ``quality.parquet`` and tells the clinic's metrics.

    Args:
        run: run folder, scored.
        metas: its checkpoints.
        patients: its patients' table.

    Returns:
        By model ``distance``, ``chance`` and ``excess`` as of
        :class:`fertiray.evaluation.drift.Drift`; None where the checkpoint does not know its
        validation's scores, or nothing was scored.
    """
    found = _scores(run, metas)
    drifts = {meta.name: _drift(found[meta.name], meta) for meta in metas}
    rows = (_rows(name, found[name], own) for name, own in drifts.items())
    parquet.write(storage.join(run, QUALITY), pl.concat(rows))
    for meta in metas:
        _tell(meta, patients.filter(pl.col("model") == meta.name), drifts[meta.name])
    return {
        name: own and {key: round(getattr(own, key), 4) for key in ("distance", "chance", "excess")}
        for name, own in drifts.items()
    }


def _scores(run: str, metas: Sequence[Meta]) -> dict[str, NDArray[np.int64]]:
    """Crops by probability of the positive class, by model; one file after the other."""
    found = {meta.name: np.zeros(BINS, np.int64) for meta in metas}
    columns = ["model", *dict.fromkeys(f"p_{meta.positive}" for meta in metas)]
    for file in storage.list_files(storage.join(run, "scores"), ".parquet"):
        frame = parquet.read(file, columns)
        for meta in metas:
            own = frame.filter(pl.col("model") == meta.name)[f"p_{meta.positive}"]
            found[meta.name] += score_counts(own.to_numpy())
    return found


def _drift(found: NDArray[np.int64], meta: Meta) -> Drift | None:
    known = meta.validation_scores
    if not known or not found.any():
        return None
    return drift(found, known["positive"], known["other"])


def _rows(name: str, found: NDArray[np.int64], own: Drift | None) -> pl.DataFrame:
    edges = np.linspace(0, 1, BINS + 1)
    return pl.DataFrame(
        {
            "model": [name] * BINS,
            "score_from": edges[:-1],
            "score_to": edges[1:],
            "crops": found,
            "share": found / max(1, found.sum()),
            "expected_share": [None] * BINS if own is None else own.expected.tolist(),
        },
        schema_overrides={"expected_share": pl.Float64},
    )


def _tell(meta: Meta, patients: pl.DataFrame, own: Drift | None) -> None:
    """The clinic's metrics of one model; see :mod:`fertiray.telemetry`."""
    sides = {words: side for side, words in VERDICTS[meta.task].items()}
    sides |= {INDETERMINATE: INDETERMINATE, NO_RESULT: NO_RESULT}
    for verdict, number in patients.group_by("verdict").len().iter_rows():
        telemetry.count("patients_total", number, model=meta.name, verdict=sides[verdict])
    for column, metric in (
        ("fraction", "patient_positive_ratio"),
        ("unlike_fraction", "patient_unlike_ratio"),
    ):
        for share in patients[column].drop_nulls():
            telemetry.observe(metric, share, model=meta.name)
    examined = patients.filter(pl.col("n_unlike").is_not_null())
    telemetry.count("crops_examined_total", int(examined["n_scored"].sum()), model=meta.name)
    telemetry.count("crops_unlike_total", int(examined["n_unlike"].sum()), model=meta.name)
    if own is not None:
        telemetry.gauge("score_drift_ratio", own.excess, model=meta.name)
