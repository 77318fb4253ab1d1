"""What a run folder holds beside its tables, cut down to what one page can show."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import polars as pl

from fertiray import parquet, storage
from fertiray.errors import InputError

IMAGE_BYTES = 9_000_000  # of pictures, as base64, in one report
# Most confident crops per class and least confident crops, per patient and model: the first pair
# with which all pictures fit.
GALLERY_SIZES = ((4, 6), (3, 6), (3, 4), (2, 4), (2, 2), (1, 2), (1, 1), (0, 1), (0, 0))
GALLERY_KEYS = ["model", "patient_id", "kind", "label"]
CUTTING, SCORING = "cutting out heads", "scoring"

Row = dict[str, Any]


def table(run: str, name: str) -> pl.DataFrame:
    """A Parquet file of the run folder.

    Raises:
        InputError: it is not there, or damaged.
    """
    return parquet.read(storage.join(run, name))


def _parts(run: str, name: str) -> Iterator[pl.DataFrame]:
    for file in storage.list_files(storage.join(run, name), ".parquet"):
        yield parquet.read(file)


def rejects_by_patient(run: str, store: str | None) -> dict[str, list[Row]]:
    """Per patient: what was left out where and why, most frequent first.

    The run folder has the crops that could not be scored. The crop store, where it can still be
    read, has the heads that were never cut out of their field (overlap, focus, debris, ...).
    """
    keys = ["patient_id", "where", "reason"]
    reason = pl.col("error").str.split(": ").list.first()
    counted = [
        part.with_columns(reason=reason, where=pl.lit(SCORING)).group_by(keys).agg(n=pl.len())
        for part in _parts(run, "rejects")
    ]
    with suppress(InputError):  # a report may be written again where the store cannot be reached
        counted += [
            part.with_columns(where=pl.lit(CUTTING)).group_by(keys).agg(n=pl.len())
            for part in (_parts(store, "rejects") if store else ())
        ]
    if not counted:
        return {}
    total = pl.concat(counted).group_by(keys).agg(pl.col("n").sum())
    found: dict[str, list[Row]] = {}
    for row in total.sort("n", *keys, descending=[True, False, False, False]).to_dicts():
        found.setdefault(row["patient_id"], []).append(row)
    return found


def all_rejects(rejects: Mapping[str, Sequence[Row]]) -> list[Row]:
    """The same for the whole cohort, with the number of patients concerned."""
    total: dict[tuple[str, str], Row] = {}
    for entries in rejects.values():
        for entry in entries:
            key = (entry["where"], entry["reason"])
            row = total.setdefault(key, {"where": key[0], "reason": key[1], "n": 0, "patients": 0})
            row["n"] += entry["n"]
            row["patients"] += 1
    return sorted(total.values(), key=lambda row: (row["where"], -row["n"], row["reason"]))


def pictures(run: str) -> dict[tuple[str, str, str, str], list[Row]]:
    """The pictures to show, by model, patient, kind and label; as many as fit in the page."""
    confident, uncertain = GALLERY_SIZES[0]
    best: pl.DataFrame | None = None
    for part in _parts(run, "gallery"):
        best = _pick(part if best is None else pl.concat([best, part]), confident, uncertain)
    if best is None or best.is_empty():
        return {}
    chosen = best
    for confident, uncertain in GALLERY_SIZES:
        chosen = _pick(best, confident, uncertain)
        if 4 / 3 * float(chosen["image"].bin.size().sum()) <= IMAGE_BYTES:
            break
    found: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in chosen.iter_rows(named=True):
        row["image"] = base64.b64encode(row["image"]).decode()
        found.setdefault(tuple(row[key] for key in GALLERY_KEYS), []).append(row)
    return found


def _pick(crops: pl.DataFrame, confident: int, uncertain: int) -> pl.DataFrame:
    sure = (
        crops.filter(kind="confident")
        .sort("confidence", "crop_id", descending=[True, False])
        .group_by("model", "patient_id", "label", maintain_order=True)
        .head(confident)
    )
    unsure = (
        crops.filter(kind="uncertain")
        .sort("confidence", "crop_id")
        .group_by("model", "patient_id", maintain_order=True)
        .head(uncertain)
    )
    return pl.concat([sure.select(crops.columns), unsure.select(crops.columns)])
