"""The files that a study leaves beside its trials."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from matplotlib.figure import Figure

from fertiray import parquet, storage
from fertiray.evaluation.figures.look import save


def absolute(location: str) -> str:
    """A local path from the root; a URI as it is. Trials run in folders of their own."""
    return location if storage.is_remote(location) else str(Path(location).absolute())


def write_json(place: str, values: Any) -> None:
    """Writes one JSON document, whole or not at all."""
    storage.write_bytes(place, (json.dumps(values, indent=2, default=str) + "\n").encode())


def write_study(
    folder: str,
    values: dict[str, Any],
    rows: Sequence[Mapping[str, Any]],
    figures: dict[str, Figure],
) -> list[str]:
    """Writes ``study.json``, ``trials.parquet``, ``table.md`` and the figures.

    Args:
        folder: of the study, local or ``s3://``.
        values: the result; its ``table`` is Markdown.
        rows: of the table of trials.
        figures: by file name.

    Returns:
        The places written, ``study.json`` the last.
    """
    trials, table = storage.join(folder, "trials.parquet"), storage.join(folder, "table.md")
    parquet.write(trials, pl.DataFrame(rows, infer_schema_length=None))
    storage.write_bytes(table, values["table"].encode())
    places = [trials, table]
    for name, figure in figures.items():
        places += save(figure, storage.join(folder, "figures"), name)
    places.append(storage.join(folder, "study.json"))
    write_json(places[-1], values)
    return places
