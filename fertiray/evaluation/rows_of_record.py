"""Rows of the results of record that stand beside a row of a paper, whichever command made them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fertiray import config
from fertiray.errors import InputError
from fertiray.papers import PAPERS
from fertiray.papers.reported import row_of_task
from fertiray.training.config import TrainConfig

Record = dict[str, Any]


def rows_of_record(folder: Path) -> Iterator[Record]:
    """Cross-validations, then the cells of studies.

    Args:
        folder: of the results of record.

    Yields:
        Records with ``name``; ``reported``: the paper's row; ``of``: what was tested on; ``note``;
        ``n``; ``folds``: their number; ``pooled``, ``mean``, ``sd`` and ``ci95`` as
        :func:`fertiray.training.crossval.crossval` has them; ``config``: the recipe as a JSON
        object, None where it is not known any more.
    """
    places = sorted(folder.glob("*.json"))
    studies = [place for place in places if place.stem.startswith("tune_")]
    for place in places:
        result = json.loads(place.read_text())["result"]
        if place not in studies and isinstance(result, dict):
            for row in result.get("rows", []):
                if row.get("reported"):
                    yield _crossval(row, place.stem)
    for place in studies:
        yield from _cells(json.loads(place.read_text())["result"])


def _crossval(row: Record, of: str) -> Record:
    result = row["result"]
    task = row["reported"].rpartition("/")[2]
    part = result.get("tasks", {}).get(task, result)
    return {
        **{key: part[key] for key in ("pooled", "mean", "sd", "ci95")},
        "n": result["n"],
        "config": result["config"],
        "name": row["name"],
        "reported": row["reported"],
        "of": of,
        "note": row.get("note") or "",
        "folds": len(result["folds"]),
    }


def _cells(study: Record) -> Iterator[Record]:
    """Cells of a study, task by task, whose folds all finished; a search has none."""
    if "cells" not in study:
        return
    declared = PAPERS[study["paper"]].grids.get(study["grid"])
    reported = {cell.name: cell.reported for cell in declared.cells} if declared else {}
    for cell in study["cells"]:
        target = reported.get(cell["cell"])
        if target is None:
            continue
        for task, part in cell["tasks"].items():
            if part["pooled"] is None:
                continue
            metrics = part["metrics"]
            summary = ("mean", "sd", "ci95")
            yield {
                **{key: {name: of[key] for name, of in metrics.items()} for key in summary},
                "pooled": part["pooled"],
                "n": part["pooled"]["n"],
                "config": _recipe(study, cell),
                "name": cell["cell"],
                "reported": row_of_task(target, task),
                "of": f"the study {study['grid']}",
                "note": "",
                "folds": study["protocol"]["folds"],
            }


def _recipe(study: Record, cell: Record) -> Record | None:
    """The recipe of a cell, made again; None where its digest is another by now."""
    # Later repeats have seeds of their own.
    first = next(t for t in study["trials"] if (t["cell"], t["repeat"]) == (cell["cell"], 1))
    settings = [*study["protocol"]["settings"], *cell["settings"]]
    try:
        found = config.override(PAPERS[study["paper"]].config(cell["recipe"]), settings)
    except InputError:
        return None
    if config.digest(found) != first["config_digest"]:
        return None
    return as_recorded(found)


def as_recorded(recipe: TrainConfig) -> Record:
    """A recipe as a record has it: through JSON, where tuples become lists."""
    values: Record = json.loads(json.dumps(dataclasses.asdict(recipe)))
    return values
