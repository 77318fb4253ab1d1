"""``fertiray report paper NAME``: a paper's tables with ours beside them, and what differs.

Ours are the rows of the results of record that name one of the paper's rows, and the cells of
studies that do. Nothing here is typed: the paper's numbers come from
:mod:`fertiray.papers.reported`, ours from the files, and a footnote lists what a row's recipe
changes of the paper's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2

from fertiray import storage
from fertiray.errors import InputError
from fertiray.evaluation.intervals import wilson
from fertiray.evaluation.results import FOLDER
from fertiray.evaluation.rows_of_record import Record, as_recorded, rows_of_record
from fertiray.evaluation.tables import interval, markdown
from fertiray.models.describe import describe
from fertiray.models.registry import MODELS
from fertiray.papers import PAPERS
from fertiray.papers.reported import REPORTED, Table

# Where a row of a paper's table and the recipe that makes it have different names.
RECIPES = {"full": "effnet_cbam", "freeze": "cbam_freeze", "hybrid_loss": "madrnet"}
COUNTS = ("params", "gmacs")
# The settings that a footnote spells out; the others are counted.
TOLD = (
    *("model", "model_args", "preprocessing.size", "preprocessing.window", "epochs"),
    *("freeze_epochs", "batch_size", "frame", "views", "keep", "augmentation.mixup", "frozen"),
    *("freeze_batchnorm", "loss.kind", "loss.triplet", "loss.harc", "initial", "teacher"),
)
# Settings that say where a run stands, not how it learns.
NOT_PROTOCOL = ("seed", "deterministic", "channels_last", "validation")


def paper_report(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    """A paper's tables as data.

    Args:
        name: key of the paper.
        folder: of the results of record.

    Returns:
        ``paper``, ``citation``, ``tables``: each ``table``, ``source``, ``protocol``, ``columns``
        (metrics), ``lines`` (``row``, ``whose``: the paper or the name of our configuration,
        ``cells``: text by metric) and ``footnotes``.

    Raises:
        InputError: an unknown paper.
    """
    if name not in REPORTED:
        raise InputError(f"paper {name!r} is unknown; choose one of: {', '.join(REPORTED)}")
    ours = list(rows_of_record(folder))
    tables = [_table(name, key, table, ours) for key, table in REPORTED[name].items()]
    return {"paper": name, "citation": PAPERS[name].citation, "tables": tables}


def as_markdown(report: dict[str, Any]) -> str:
    """The report of :func:`paper_report` as Markdown."""
    parts = [f"# {report['paper']}\n\n{report['citation']}\n"]
    for table in report["tables"]:
        rows = [
            [line["row"], line["whose"], *(line["cells"].get(m, "") for m in table["columns"])]
            for line in table["lines"]
        ]
        notes = "".join(f"{i}. {note}\n" for i, note in enumerate(table["footnotes"], 1))
        parts.append(
            f"## {table['table']}\n\n{table['source']}; {table['protocol']}.\n\n"
            + markdown(["row", "", *table["columns"]], rows)
            + (f"\n{notes}" if notes else "")
        )
    return "\n".join(parts)


def write(report: dict[str, Any], place: str) -> str:
    """Writes a report as ``.md`` or ``.html``.

    Raises:
        InputError: another ending.
    """
    if place.endswith(".md"):
        text = as_markdown(report)
    elif place.endswith(".html"):
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("fertiray", "web"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        text = environment.get_template("paper.html.j2").render(report=report)
    else:
        raise InputError(f"--out {place}: ends in neither .md nor .html")
    storage.write_bytes(place, text.encode())
    return place


def _table(paper: str, key: str, table: Table, ours: list[Record]) -> dict[str, Any]:
    notes = [f"The paper: {table.note}."] if table.note else []
    if table.images is not None:
        notes.append(
            f"One image of the paper's {table.images} is {100 / table.images:.2g} points;"
            " intervals marked n are Wilson's, from the printed accuracy."
        )
    beside = table.classes_of or key
    lines = []
    marks: dict[str, str] = {}
    for row, values in table.rows.items():
        cells = _paper_cells(values, table.images)
        lines.append({"row": row, "whose": "paper", "cells": cells})
        counted = _counted(row, values)
        if counted:
            lines.append({"row": row, "whose": "this code", "cells": counted})
        target = f"{paper}/{beside}" if table.classes_of else f"{paper}/{beside}/{row}"
        for own in ours:
            # Of a study's cells the record has no classes.
            if own["reported"] != target or (table.classes_of and "per_class" not in own["pooled"]):
                continue
            if own["name"] not in marks:
                notes.append(_differences(paper, target.rpartition("/")[2], own))
                marks[own["name"]] = f"{own['name']} [{len(notes)}]"
            cells = _class_cells(row, own) if table.classes_of else _own_cells(own, cells)
            lines.append({"row": row, "whose": marks[own["name"]], "cells": cells})
    if table.missing:
        notes.append(f"No row of ours: {table.missing}.")
    elif all(line["whose"] == "paper" for line in lines):
        notes.append("No row of ours is on record.")
    return {
        "table": key,
        "source": table.source,
        "protocol": table.protocol,
        "columns": list(dict.fromkeys(metric for line in lines for metric in line["cells"])),
        "lines": lines,
        "footnotes": notes,
    }


def _class_cells(name: str, own: Record) -> dict[str, str]:
    """A class of one of our rows: all images, the recall with its 95% interval."""
    (found,) = (line for line in own["pooled"]["per_class"] if line["class"] == name)
    low, high = found["recall_ci"]
    cells = {metric: _number(found[metric]) for metric in ("precision", "recall", "f1")}
    cells["recall"] += f" ({low:.3f} to {high:.3f})"
    return {**cells, "n": str(found["n"])}


def _paper_cells(values: dict[str, float], images: int | None) -> dict[str, str]:
    cells = {}
    for metric, value in values.items():
        base, _, kind = metric.rpartition("_")
        if kind in ("sd", "sem", "low", "high", "min", "max") and base:
            continue
        text = _number(value)
        if f"{metric}_sd" in values:
            text += f" ± {_number(values[f'{metric}_sd'])}"
        if f"{metric}_ci_low" in values:
            text += f" ({values[f'{metric}_ci_low']:.3f} to {values[f'{metric}_ci_high']:.3f})"
        elif metric == "accuracy" and images is not None and f"{metric}_sd" not in values:
            limits = wilson(round(value * images), images)
            text += f" (n = {images}: {float(limits.low):.3f} to {float(limits.high):.3f})"
        cells[metric] = text
    return cells


def _own_cells(own: Record, theirs: dict[str, str]) -> dict[str, str]:
    """Ours in the paper's metrics: all images with 95% CI, accuracy also over folds."""
    cells, pooled = {}, own["pooled"]
    shown = dict.fromkeys((*theirs, "accuracy", "macro_f1", "roc_auc"))
    for metric in shown:
        if pooled.get(metric) is not None and metric in pooled["ci"]:
            cells[metric] = interval(pooled, metric)
    mean, sd = own["mean"]["accuracy"], own["sd"]["accuracy"]
    if sd is not None:
        low, high = own["ci95"]["accuracy"]
        cells["accuracy"] += f"; folds {mean:.3f} ± {sd:.3f} ({low:.3f} to {min(high, 1.0):.3f})"
    return cells


def _counted(row: str, values: dict[str, float]) -> dict[str, str]:
    """Parameters and multiply-adds of the network of this name, where the paper gives them."""
    if row not in MODELS or not set(COUNTS) & set(values):
        return {}
    own = describe(row, MODELS[row])
    return {metric: _number(own[metric]) for metric in COUNTS if metric in values}


def _differences(paper: str, row: str, own: Record) -> str:
    """Where one of our rows departs from the paper's recipe, and how it was tested."""
    recipes = PAPERS[paper].models
    name = RECIPES.get(row, row)
    text = f"{own['name']}: n = {own['n']}, {own['folds']} folds of {own['of']}"
    if own["note"]:
        text += f"; {own['note']}"
    if own["config"] is None:
        text += "; its recipe is declared otherwise by now"
    elif name in recipes:
        changed = list(_changed(as_recorded(recipes[name]), own["config"]))
        shown = [f"{key} {ours} for {theirs}" for key, ours, theirs in changed if key in TOLD]
        if changed:
            text += f"; differs from the paper's recipe in {', '.join(shown)}"
        if len(shown) < len(changed):
            text += f" and in {len(changed) - len(shown)} further settings, in the file of record"
    return text + "."


def _changed(theirs: Record, ours: Record, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Settings in which two recipes differ: key, our value, theirs."""
    for key, value in theirs.items():
        own = ours.get(key, value)
        if key in NOT_PROTOCOL and not prefix:
            continue
        if isinstance(value, dict) and isinstance(own, dict) and value:
            yield from _changed(value, own, f"{prefix}{key}.")
        elif own != value:
            yield f"{prefix}{key}", _short(own), _short(value)


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "(" + " ".join(str(part) for part in value) + ")"
    if isinstance(value, dict):
        return " ".join(f"{key}={part}" for key, part in value.items()) or "none"
    return "none" if value is None else str(value)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}"
