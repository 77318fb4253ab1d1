"""What `fertiray validate` reads: patients' results and the outcomes of their treatment, joined.

No message names a patient: rows are named by their line, identifiers go into files only.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from fertiray import storage
from fertiray.data.datasets.tables import UNGRADED, read_table
from fertiray.errors import InputError
from fertiray.evaluation.clinical_semen import SEMEN

Row = dict[str, Any]

LOW, INTERMEDIATE, HIGH = GROUPS = ("low", "intermediate", "high")
LOW_TO, INTERMEDIATE_TO = 0.40, 0.70
RATE, PERCENT, PROCEDURE = "fertilisation_rate", "fertilisation_percent", "procedure"
IVF, ICSI = "IVF", "ICSI"
TEXTS = ("patient_id", "group", PROCEDURE, "left_out")


@dataclass(frozen=True)
class Cohort:
    """Patients with a result and an outcome.

    Attributes:
        frame: a row per patient of both tables: ``patient_id, value, fertilisation_rate, group,
            procedure``, the semen parameters given, and ``left_out``, why the patient takes no
            part, null for those who do.
        unmatched: ``patient_id, found_in`` (patients, outcomes) of those in one table only.
        model: the model whose results these are; None where the table names none.
        threshold: the run's own threshold, a share; None where the table has none.
        counts: rows by kind; ``left_out`` by reason.
        cautions: what to know about the tables.
        ignored: columns of the outcomes that mean nothing here.
    """

    frame: pl.DataFrame
    unmatched: pl.DataFrame
    model: str | None
    threshold: float | None
    counts: dict[str, Any]
    cautions: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def group_of(rate: float) -> str:
    """The group of a fertilisation rate, a share: low to .40, intermediate to .70, high above.

    Leung et al. give whole percentages (0 to 40, 41 to 70, 71 to 100); what lies between two of
    them belongs to the upper group: 40.5% is intermediate.
    """
    return LOW if rate <= LOW_TO else INTERMEDIATE if rate <= INTERMEDIATE_TO else HIGH


def read_cohort(patients: str, outcomes: str, model: str | None, value: str) -> Cohort:
    """Reads both tables and joins them by ``patient_id``.

    Args:
        patients: a run folder, or a CSV or Parquet file with ``patient_id`` and the value.
        outcomes: a CSV file, see :func:`fertiray.evaluation.clinical.validate`.
        model: which of several models in the first table.
        value: its column, shares in [0, 1].

    Raises:
        InputError: a table is not there or lacks a column; an entry is no number or out of range;
            a patient comes twice or has no id; no patient is in both.
    """
    place = _place(patients)
    rows, found = _of_model(place, _rows(place), model)
    _check_ids(place, rows, value)
    results = {
        row["patient_id"]: _number(place, row, value, 1.0, "shares of 1, not percentages")
        for row in rows
    }
    entries, cautions, ignored = _outcomes(outcomes)
    shared = [row for row in entries if row["patient_id"] in results]
    if not shared:
        raise InputError(
            f"{place} ({len(results)} patients) and {outcomes} ({len(entries)}) have no patient_id"
            " in common; write them alike in both"
        )
    merged = [{**row, "value": results[row["patient_id"]]} for row in shared]
    cells = [{**row, **_placed(row)} for row in merged]
    frame = pl.DataFrame(
        cells, schema={name: pl.String if name in TEXTS else pl.Float64 for name in cells[0]}
    )
    both = {row["patient_id"] for row in shared}
    alone = [(name, "patients") for name in results if name not in both]
    alone += [(row["patient_id"], "outcomes") for row in entries if row["patient_id"] not in both]
    thresholds = {
        _number(place, row, "threshold", 1.0, "a share of 1") for row in rows if "threshold" in row
    }
    own = thresholds.pop() if len(thresholds) == 1 else None
    return Cohort(
        frame=frame,
        unmatched=pl.DataFrame(
            alone, schema={"patient_id": pl.String, "found_in": pl.String}, orient="row"
        ),
        model=found,
        threshold=own,
        counts={
            "patients": len(results),
            "outcomes": len(entries),
            "joined": frame.height,
            "used": int(frame["left_out"].is_null().sum()),
            "unmatched_patients": len(results) - len(both),
            "unmatched_outcomes": len(entries) - len(both),
            "left_out": dict(sorted(Counter(frame["left_out"].drop_nulls()).items())),
        },
        cautions=cautions,
        ignored=ignored,
    )


def _place(patients: str) -> str:
    """The file: of a run folder its ``patients.parquet``."""
    is_file = patients.lower().endswith((".csv", ".tsv", ".txt", ".parquet"))
    return patients if is_file else storage.join(patients, "patients.parquet")


def _rows(place: str) -> list[Row]:
    """Rows by lower-case column name, each with where it is under ``#``."""
    if not place.lower().endswith(".parquet"):
        return [{**row, "#": f"line {row['#']}"} for row in read_table(place)]
    try:
        frame = pl.read_parquet(io.BytesIO(storage.read_bytes(place)))
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{place}: not a Parquet file; give the run folder or a CSV") from error
    return [
        {**{name.lower(): entry for name, entry in row.items()}, "#": f"row {number}"}
        for number, row in enumerate(frame.iter_rows(named=True), 1)
    ]


def _of_model(place: str, rows: list[Row], model: str | None) -> tuple[list[Row], str | None]:
    names = sorted({str(row["model"]) for row in rows if row.get("model") not in (None, "")})
    if model is None and len(names) < 2:
        return rows, names[0] if names else None
    if model not in names:
        there = ", ".join(names) or "no column model"
        raise InputError(f"{place}: --model must name one of its models; there is {there}")
    return [row for row in rows if row["model"] == model], model


def _check_ids(place: str, rows: list[Row], *columns: str) -> None:
    """Sees to it that every row has its own patient; ids become text without blanks around."""
    if not rows:
        raise InputError(f"{place}: no rows; give one for each patient")
    for name in ("patient_id", *(column.lower() for column in columns)):
        if name not in rows[0]:
            there = ", ".join(column for column in rows[0] if column and column != "#")
            raise InputError(f"{place}: no column {name}; there are {there}")
    first: dict[str, str] = {}
    for row in rows:
        name = "" if row["patient_id"] is None else str(row["patient_id"]).strip()
        if not name:
            raise InputError(f"{place}: {row['#']}: no patient_id; give one or take the row out")
        if name in first:
            raise InputError(
                f"{place}: {row['#']}: the patient_id of {first[name]} again; keep one row for each"
            )
        first[name] = row["#"]
        row["patient_id"] = name


def _number(place: str, row: Row, column: str, most: float, unit: str) -> float | None:
    """An entry from 0 to ``most``; None where it is empty, NaN or a word for nothing."""
    entry = row[column.lower()]
    text = "" if entry is None else str(entry)
    if text.strip().lower() in UNGRADED - {"-1"}:
        return None
    try:
        number = float(text)
    except ValueError as error:
        raise InputError(
            f"{place}: {row['#']}: {column} is no number; write 0.5, not 0,5, and nothing where it"
            " is not known"
        ) from error
    if not 0 <= number <= most or math.isinf(number):
        raise InputError(f"{place}: {row['#']}: {column} is {text}; give {unit}")
    return number


def _outcomes(place: str) -> tuple[list[Row], list[str], list[str]]:
    """Rows with every known column as a number; what is odd about them; the other columns."""
    rows = _rows(place)
    _check_ids(place, rows)
    rates = [name for name in (RATE, PERCENT) if name in rows[0]]
    if len(rates) != 1:
        raise InputError(
            f"{place}: needs one of the columns {RATE} (0 to 1) and {PERCENT} (0 to 100),"
            f" {'not both' if rates else 'found neither'}"
        )
    percent = rates[0] == PERCENT
    given = [name for name in SEMEN if name in rows[0]]
    entries, cautions = [], []
    for row in rows:
        unit = "percentages from 0 to 100" if percent else f"shares of 1, or name it {PERCENT}"
        rate = _number(place, row, rates[0], 100.0 if percent else 1.0, unit)
        entry = {"patient_id": row["patient_id"], RATE: rate, PROCEDURE: _procedure(place, row)}
        if percent and rate is not None:
            entry[RATE] = rate / 100
        for name in given:
            most = 100.0 if name.endswith("percent") else math.inf
            unit = "percentages from 0 to 100" if most == 100 else "numbers from 0 on"
            entry[name] = _number(place, row, name, most, unit)
        entries.append(entry)
    known = [entry[RATE] for entry in entries if entry[RATE] is not None]
    if percent and any(known) and max(known) <= 0.01:
        cautions.append(f"no {PERCENT} is above 1: are they shares? Then name the column {RATE}")
    meant = {"patient_id", PROCEDURE, rates[0], *given, "#", ""}
    return entries, cautions, [name for name in rows[0] if name not in meant]


def _procedure(place: str, row: Row) -> str:
    """IVF where the table does not say."""
    if PROCEDURE not in row:
        return IVF
    name = str(row[PROCEDURE] or "").strip().upper()
    if name not in ("", IVF, ICSI):
        raise InputError(f"{place}: {row['#']}: unknown {PROCEDURE}; give {IVF} or {ICSI}")
    return name


def _placed(row: Row) -> Row:
    """The group, and why a patient is left out.

    In ICSI a spermatozoon need not bind to the zona pellucida, so its fertilisation rate says
    nothing of binding.
    """
    reasons = {
        "no value": row["value"] is None,
        "no fertilisation rate": row[RATE] is None,
        "ICSI": row[PROCEDURE] == ICSI,
        "procedure not given": row[PROCEDURE] == "",
    }
    return {
        "group": None if row[RATE] is None else group_of(row[RATE]),
        "left_out": next((why for why, holds in reasons.items() if holds), None),
    }
