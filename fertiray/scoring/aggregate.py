"""From scored crops to patients: counts, fractions, prevalences, intervals and verdicts.

The rows of all scores are counted once (streaming, so memory does not grow with their number);
everything after that works on a handful of rows per slide. The order of the rows and their
division into files change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from fertiray import parquet, storage
from fertiray.errors import InputError
from fertiray.evaluation.intervals import prevalence_interval, rogan_gladen, wilson
from fertiray.scoring.agreement import cohort_agreement, patient_agreement
from fertiray.scoring.verdicts import INDETERMINATE, ModelInfo, crops_to_settle, side

VerdictOn = Literal["prevalence", "fraction"]

COUNTED = ["patient_id", "slide_id", "model", "label", "unlike"]
PLACE = ["patient_id", "slide_id"]
SCHEMA = {**dict.fromkeys(COUNTED, pl.String()), "unlike": pl.Boolean()}
READ = ["patient_id", "slide_id", "model", "label", "ood"]


@dataclass(frozen=True)
class Aggregates:
    """The tables of a run.

    Attributes:
        patients: one row per patient and model.
        slides: one row per patient, slide and model.
        agreement: one row per model, slide-to-slide agreement of the cohort.
    """

    patients: pl.DataFrame
    slides: pl.DataFrame
    agreement: pl.DataFrame


def aggregate(
    scores: pl.LazyFrame | pl.DataFrame,
    rejects: pl.LazyFrame | pl.DataFrame,
    models: Mapping[str, ModelInfo],
    *,
    verdict_on: VerdictOn = "prevalence",
) -> Aggregates:
    """Counts the rows of a run and turns the counts into patient and slide results.

    Args:
        scores: rows with at least ``patient_id, slide_id, model, label``.
        rejects: rows with at least ``patient_id, slide_id``; a rejected crop counts as rejected
            for every model.
        models: by name; every model in the scores must be there.
        verdict_on: what the column ``verdict`` follows. ``prevalence``: the 95% interval of the
            corrected prevalence (or of the fraction, where a model has no measured accuracy).
            ``fraction``: for binding the raw fraction itself against the threshold, as the paper
            does it; for morphology the fraction's 95% interval.

    Returns:
        The tables. A patient without any scored crop has nulls and the verdict ``no result``.

    Raises:
        InputError: a model or a label in the scores that ``models`` does not know.
    """
    return _from_counts(count_labels(scores), count_rejects(rejects), models, verdict_on)


def aggregate_run(
    run: str, models: Mapping[str, ModelInfo], *, verdict_on: VerdictOn = "prevalence"
) -> Aggregates:
    """The same for a run folder, local or on S3: its files are counted one after the other."""
    counts = [count_labels(parquet.read(file, READ)) for file in _files(run, "scores")]
    rejected = [count_rejects(parquet.read(file, PLACE)) for file in _files(run, "rejects")]
    return _from_counts(_add_up(counts, COUNTED), _add_up(rejected, PLACE), models, verdict_on)


def write_tables(run: str, tables: Aggregates) -> None:
    """Writes ``patients`` and ``slides`` as Parquet and CSV and ``agreement`` as Parquet."""
    for name in ("patients", "slides", "agreement"):
        frame: pl.DataFrame = getattr(tables, name)
        parquet.write(storage.join(run, f"{name}.parquet"), frame)
        if name != "agreement":
            storage.write_bytes(storage.join(run, f"{name}.csv"), to_csv(frame).encode())


def to_csv(frame: pl.DataFrame) -> str:
    """A table for a spreadsheet: shares with 5 decimals, nulls empty.

    A text that a spreadsheet would run as a formula gets an apostrophe in front.
    """
    text = pl.col(pl.String)
    risky = text.str.contains(r"^[=+\-@\t\r]")
    safe = pl.when(risky).then("'" + text).otherwise(text).name.keep()
    return frame.with_columns(safe).write_csv(float_precision=5)


def count_labels(scores: pl.LazyFrame | pl.DataFrame) -> pl.DataFrame:
    """Rows per ``patient_id, slide_id, model, label, unlike`` in the column ``n``.

    ``unlike`` tells whether the column ``ood`` is above 1; null where there is none.
    """
    ood = pl.col("ood") if "ood" in scores.lazy().collect_schema() else pl.lit(None, pl.Float32)
    return _count(scores.lazy().with_columns(unlike=ood > 1), COUNTED)


def count_rejects(rejects: pl.LazyFrame | pl.DataFrame) -> pl.DataFrame:
    """Rows per ``patient_id, slide_id`` in the column ``n``."""
    return _count(rejects, PLACE)


def _count(rows: pl.LazyFrame | pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    texts = rows.lazy().select(pl.col(key).cast(SCHEMA[key]) for key in keys)
    return texts.group_by(keys).agg(n=pl.len().cast(pl.Int64)).collect(engine="streaming")


def _add_up(counts: Sequence[pl.DataFrame], keys: Sequence[str]) -> pl.DataFrame:
    empty = pl.DataFrame(schema={**{key: SCHEMA[key] for key in keys}, "n": pl.Int64})
    return pl.concat([empty, *counts]).group_by(keys).agg(pl.col("n").sum())


def _files(run: str, folder: str) -> list[str]:
    return storage.list_files(storage.join(run, folder), ".parquet")


def _from_counts(
    counts: pl.DataFrame,
    rejected: pl.DataFrame,
    models: Mapping[str, ModelInfo],
    verdict_on: VerdictOn,
) -> Aggregates:
    _check(counts, models)
    places = pl.concat([counts.select(PLACE), rejected.select(PLACE)]).unique()
    places = places.join(rejected.rename({"n": "n_rejected"}), on=PLACE, how="left")
    slides, patients = [], []
    for model in models.values():
        own = counts.filter(pl.col("model") == model.name)
        per_slide = _class_counts(places, own, model)
        per_patient = per_slide.group_by("patient_id").agg(
            pl.col(pl.Int64).sum(), pl.col("model").first()
        )
        # A run without a detector has no unlike crops; that is not the same as none found.
        examined = bool(own["unlike"].is_not_null().any())
        per_slide, per_patient = (
            frame.with_columns(n_unlike=pl.col("n_unlike") if examined else pl.lit(None, pl.Int64))
            for frame in (per_slide, per_patient)
        )
        slides.append(_estimates(per_slide, model))
        agreement = patient_agreement(slides[-1])
        patients.append(
            _verdicts(_estimates(per_patient, model), model, verdict_on).join(
                agreement, on=["patient_id", "model"], how="left"
            )
        )
    all_slides = _arrange(slides, [*PLACE, "model"])
    return Aggregates(
        _arrange(patients, ["patient_id", "model"]), all_slides, cohort_agreement(all_slides)
    )


def _check(counts: pl.DataFrame, models: Mapping[str, ModelInfo]) -> None:
    for name, labels in counts.group_by("model", maintain_order=True).agg("label").iter_rows():
        if name not in models:
            known = ", ".join(models)
            raise InputError(
                f"scores of model {name!r}, but only {known} is known; name its checkpoint too"
            )
        unknown = sorted(set(labels) - set(models[name].classes))
        if unknown:
            raise InputError(
                f"label {unknown[0]!r} in the scores is no class of model {name!r}; "
                "score again with this checkpoint"
            )


def _class_counts(places: pl.DataFrame, counts: pl.DataFrame, model: ModelInfo) -> pl.DataFrame:
    """Every place with the model's counts, 0 where it has none."""
    columns = {f"n_{name}": pl.col("label") == name for name in model.classes}
    wide = counts.group_by(PLACE).agg(
        *(pl.col("n").filter(chosen).sum().alias(column) for column, chosen in columns.items()),
        n_unlike=pl.col("n").filter(pl.col("unlike")).sum(),
    )
    return (
        places.join(wide, on=PLACE, how="left")
        .with_columns(pl.col(pl.Int64).fill_null(0))
        .with_columns(
            model=pl.lit(model.name),
            n_scored=pl.sum_horizontal(list(columns)),
            n_positive=pl.col(f"n_{model.positive}"),
        )
    )


def _estimates(frame: pl.DataFrame, model: ModelInfo) -> pl.DataFrame:
    """Adds fraction and prevalence with their intervals; null where nothing was scored."""
    k, n = frame["n_positive"].to_numpy(), frame["n_scored"].to_numpy()
    fraction = np.divide(k, n, out=np.full(len(k), np.nan), where=n > 0)
    raw = wilson(k, n)
    unknown = np.full(len(k), np.nan)
    columns = {"fraction": fraction, "ci_low": raw.low, "ci_high": raw.high}
    unlike = frame["n_unlike"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    columns["unlike_fraction"] = np.divide(unlike, n, out=np.full(len(k), np.nan), where=n > 0)
    names = ("prevalence", "prevalence_ci_low", "prevalence_ci_high")
    if model.accuracy is None:
        columns |= dict.fromkeys(names, unknown)
    else:
        limits = prevalence_interval(k, n, model.accuracy)
        columns |= dict(zip(names, (rogan_gladen(fraction, model.accuracy), *limits), strict=True))
    added = [pl.Series(name, values).fill_nan(None) for name, values in columns.items()]
    return frame.with_columns(added).with_columns(threshold=pl.lit(model.threshold))


def _verdicts(frame: pl.DataFrame, model: ModelInfo, verdict_on: VerdictOn) -> pl.DataFrame:
    raw = side(pl.col("ci_low"), pl.col("ci_high"), model)
    point = side(pl.col("fraction"), pl.col("fraction"), model)
    corrected = side(pl.col("prevalence_ci_low"), pl.col("prevalence_ci_high"), model)
    known = model.accuracy is not None
    follows = "prevalence" if known else "fraction interval"
    if verdict_on == "fraction":
        follows = "fraction" if model.task == "zona" else "fraction interval"
    frame = frame.with_columns(
        verdict_prevalence=corrected if known else raw,
        verdict_fraction=point if model.task == "zona" else raw,
        verdict_on=pl.lit(follows),
        task=pl.lit(model.task),
        positive=pl.lit(model.positive),
    ).with_columns(verdict=pl.col(f"verdict_{verdict_on}"))
    settle = [
        crops_to_settle(row["n_positive"], row["n_scored"], model, follows)
        if row["verdict"] == INDETERMINATE
        else None
        for row in frame.select("n_positive", "n_scored", "verdict").iter_rows(named=True)
    ]
    return frame.with_columns(
        pl.Series("n_more", settle, dtype=pl.Int64),
        pl.Series("validation_conflict", _conflict(frame, model), dtype=pl.Boolean),
    )


def _conflict(frame: pl.DataFrame, model: ModelInfo) -> Any:
    """Whether the fraction cannot come from a classifier as accurate as its validation says."""
    if model.accuracy is None:
        return [None] * frame.height
    k, n = frame["n_positive"].to_numpy(), frame["n_scored"].to_numpy()
    limits = prevalence_interval(k, n, model.accuracy, truncate=False)
    return (limits.high < 0) | (limits.low > 1)


def _arrange(frames: Sequence[pl.DataFrame], keys: list[str]) -> pl.DataFrame:
    """One table of all models: the promised columns first, then the rest, class counts last."""
    table = pl.concat(frames, how="diagonal")
    leading = [*keys, *PROMISED]
    later = [name for name in table.columns if name not in leading]
    classes = [name for name in later if name.startswith("n_") and name not in OWN_COUNTS]
    others = [name for name in later if name not in classes]
    present = [name for name in leading if name in table.columns]
    return table.select([*present, *others, *classes]).sort(keys)


PROMISED = [
    *("n_scored", "n_rejected", "n_positive", "fraction", "ci_low", "ci_high"),
    *("prevalence", "prevalence_ci_low", "prevalence_ci_high", "threshold", "verdict"),
    *("verdict_on", "verdict_prevalence", "verdict_fraction"),
]
OWN_COUNTS = ("n_more", "n_slides", "n_unlike")
