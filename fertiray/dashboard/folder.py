"""Panels drawn from a run folder or a checkpoint folder, where no Prometheus was watching."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from fertiray import parquet, storage
from fertiray.dashboard.drawings import EPOCH, Drawing, Line, counts_by_bound
from fertiray.errors import InputError
from fertiray.scoring.quality import QUALITY
from fertiray.scoring.timeline import STAGES, TIMELINE
from fertiray.scoring.verdicts import INDETERMINATE
from fertiray.studies import EVENTS
from fertiray.telemetry import METRICS
from fertiray.training.logs import HISTORY

PIECES = 40  # of the throughput's line


class Folder:
    """What a folder holds of what the panels show.

    Args:
        location: a run folder or a checkpoint folder, local or ``s3://``.

    Raises:
        InputError: it is neither.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self.shards = self._table(TIMELINE)
        self.patients = self._table("patients.parquet")
        self.scores = self._table(QUALITY)
        self.history = self._table(EVENTS, HISTORY)
        if all(table is None for table in (self.shards, self.patients, self.history)):
            raise InputError(
                f"{location}: neither a run folder nor a trained checkpoint; name one that"
                " `fertiray score` or `fertiray train` wrote"
            )

    def draw(self, panel: str) -> Drawing | None:
        """A panel's content, by the panel's id; None where the folder has none."""
        return DRAWN[panel](self) if panel in DRAWN else None

    def record(self) -> dict[str, Any]:
        """``run.json``, or nothing."""
        place = storage.join(self.location, "run.json")
        return dict(json.loads(storage.read_bytes(place))) if storage.exists(place) else {}

    def _table(self, *parts: str) -> pl.DataFrame | None:
        place = storage.join(self.location, *parts)
        if not storage.exists(place):
            return None
        return parquet.read(place)


def _scored(folder: Folder) -> Drawing | None:
    if folder.shards is None:
        return None
    return Drawing(number=float(folder.shards["scored"].to_numpy().sum()))


def _reject_share(folder: Folder) -> Drawing | None:
    if folder.shards is None:
        return None
    scored, rejected = (int(folder.shards[key].to_numpy().sum()) for key in ("scored", "rejected"))
    return Drawing(number=rejected / max(1, scored + rejected))


def _rejects(folder: Folder) -> Drawing | None:
    if folder.shards is None:
        return None
    files = storage.list_files(storage.join(folder.location, "rejects"), ".parquet")
    parts = [parquet.read(file, ["stage"]) for file in files]
    counts = pl.concat(parts).group_by("stage").len().sort("stage") if parts else None
    rows = counts.iter_rows() if counts is not None else ()
    return Drawing(bars=tuple((stage, float(n)) for stage, n in rows))


def _finished(folder: Folder) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """When each shard was done, and how many crops it scored."""
    assert folder.shards is not None
    times = folder.shards["finished"].dt.epoch("ms").to_numpy() / 1000
    return times, folder.shards["scored"].to_numpy()


def _throughput(folder: Folder) -> Drawing | None:
    if folder.shards is None or folder.shards.is_empty():
        return None
    times, crops = _finished(folder)
    # A shard's crops were scored during the time that it took, not at its end.
    begins = times - folder.shards["seconds"].to_numpy()
    edges = np.linspace(begins.min(), times.max(), min(PIECES, 2 + len(times)) + 1)
    overlap = np.minimum(times, edges[1:, None]) - np.maximum(begins, edges[:-1, None])
    share = np.clip(overlap, 0, None) / np.maximum(times - begins, 1e-9)
    rates = (share * crops).sum(1) / np.diff(edges)
    middles = (edges[1:] + edges[:-1]) / 2
    return Drawing(lines=(Line("score", tuple(middles.tolist()), tuple(rates.tolist())),))


def _waiting(folder: Folder) -> Drawing | None:
    if folder.shards is None or folder.shards.is_empty():
        return None
    times, _ = _finished(folder)
    done = (folder.shards["scored"] + folder.shards["rejected"]).cum_sum().to_numpy()
    left = tuple((done[-1] - done).astype(float).tolist())
    return Drawing(lines=(Line("score", tuple(times.tolist()), left),))


def _batch(folder: Folder) -> Drawing | None:
    return _per_batch(folder, {"mean of a shard": pl.col("decode_s") + pl.col("network_s")})


def _stages(folder: Folder) -> Drawing | None:
    columns = {stage: pl.col(f"{stage}_s") for stage in STAGES if stage != "write"}
    drawn = _per_batch(folder, columns)
    if drawn is None or folder.shards is None:
        return None
    times, _ = _finished(folder)
    writing = tuple(folder.shards["write_s"].to_list())
    return Drawing(lines=(*drawn.lines, Line("write", tuple(times.tolist()), writing)))


def _per_batch(folder: Folder, columns: dict[str, pl.Expr]) -> Drawing | None:
    if folder.shards is None or folder.shards.is_empty():
        return None
    times, _ = _finished(folder)
    values = folder.shards.select(
        (seconds / pl.col("batches").clip(1)).alias(name) for name, seconds in columns.items()
    )
    lines = (Line(name, tuple(times.tolist()), tuple(values[name].to_list())) for name in columns)
    return Drawing(lines=tuple(lines))


def _patients(folder: Folder) -> Drawing | None:
    return None if folder.patients is None else Drawing(number=float(folder.patients.height))


def _indeterminate(folder: Folder) -> Drawing | None:
    if folder.patients is None or folder.patients.is_empty():
        return None
    crossing = folder.patients["verdict"].to_numpy() == INDETERMINATE
    return Drawing(number=float(crossing.mean()))


def _unlike(folder: Folder) -> Drawing | None:
    if folder.patients is None or "n_unlike" not in folder.patients.columns:
        return None
    examined = folder.patients.filter(pl.col("n_unlike").is_not_null())
    unlike, scored = (int(examined[key].to_numpy().sum()) for key in ("n_unlike", "n_scored"))
    return Drawing(number=unlike / scored) if scored else None


def _verdicts(folder: Folder) -> Drawing | None:
    if folder.patients is None:
        return None
    counts = folder.patients.group_by("model", "verdict").len().sort("model", "verdict")
    rows = counts.iter_rows()
    return Drawing(bars=tuple((f"{model} {verdict}", float(n)) for model, verdict, n in rows))


def _fractions(folder: Folder) -> Drawing | None:
    return _histogram(folder, "fraction", "patient_positive_ratio")


def _unlike_patients(folder: Folder) -> Drawing | None:
    return _histogram(folder, "unlike_fraction", "patient_unlike_ratio")


def _histogram(folder: Folder, column: str, metric: str) -> Drawing | None:
    if folder.patients is None or column not in folder.patients.columns:
        return None
    values = folder.patients[column].drop_nulls().to_numpy()
    if not len(values):
        return None
    bounds = (*METRICS[metric].buckets, float("inf"))
    cumulative = [(str(bound), float((values <= bound).sum())) for bound in bounds]
    return Drawing(bars=counts_by_bound(cumulative))


def _drift(folder: Folder) -> Drawing | None:
    record = folder.record()
    known = {name: own["excess"] for name, own in record.get("drift", {}).items() if own}
    if not known or folder.shards is None or folder.shards.is_empty():
        return None
    end = float(_finished(folder)[0].max())
    return Drawing(lines=tuple(Line(name, (end,), (value,)) for name, value in known.items()))


def _loss(folder: Folder) -> Drawing | None:
    return _by_epoch(folder, {"training": "training_loss", "validation": "validation_loss"})


def _by_epoch(folder: Folder, columns: dict[str, str]) -> Drawing | None:
    if folder.history is None:
        return None
    lines = []
    for name, column in columns.items():
        if column in folder.history.columns:
            known = folder.history.select("epoch", column).drop_nulls()
            x, y = (tuple(map(float, known[key].to_list())) for key in ("epoch", column))
            lines.append(Line(name, x, y))
    return Drawing(lines=tuple(lines), axis=EPOCH)


DRAWN: dict[str, Callable[[Folder], Drawing | None]] = {
    "scored": _scored,
    "reject_share": _reject_share,
    "throughput": _throughput,
    "waiting": _waiting,
    "rejects": _rejects,
    "batch": _batch,
    "stages": _stages,
    "loss": _loss,
    "patients": _patients,
    "indeterminate": _indeterminate,
    "unlike": _unlike,
    "verdicts": _verdicts,
    "fractions": _fractions,
    "unlike_patients": _unlike_patients,
    "drift": _drift,
}
