"""Results of record: JSON files that carry how they came to be, and the tables made of them.

A result of record lies under ``dashboards/results/``. A README table is the text between the lines
``<!-- results: NAME -->`` and ``<!-- end -->``; it is written by :func:`render_into` only. The
table ``models`` is measured on the spot.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fertiray import config, provenance, storage
from fertiray.errors import InputError
from fertiray.evaluation.bench_tables import (
    adaptive_table,
    measures_table,
    memory_table,
    models_bench_table,
    pipeline_table,
    scale_table,
    serve_table,
)
from fertiray.evaluation.chaos_tables import chaos_table
from fertiray.evaluation.tables import crossval_table, day_table, markdown
from fertiray.models.describe import models_table
from fertiray.papers.reported import reported

FOLDER = Path("dashboards") / "results"
MARKED = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def record(name: str, values: dict[str, Any], *, seed: int | None, data_digest: str) -> Path:
    """Writes a result of record below the current folder.

    Args:
        name: names the file and the README table.
        values: the result.
        seed: of the run; None where nothing was random.
        data_digest: identifies the data.
    """
    place = FOLDER / f"{name}.json"
    _write(place, {"result": values, "origin": origin(seed, data_digest)})
    return place


def append_row(name: str, row: dict[str, Any]) -> Path:
    """Adds a row to a result of record whose rows are made one at a time.

    A row of the same name is replaced, in its place. Every row carries the origin of its own run,
    which may have been on another machine: the ``origin`` of its result.

    Args:
        name: names the file and the README table: ``hushem``, ``smids`` or ``hungvuong``.
        row: see :mod:`fertiray.evaluation.tables`.

    Raises:
        InputError: a ``reported`` key that does not exist.
    """
    if row.get("reported"):
        reported(row["reported"])
    place = FOLDER / f"{name}.json"
    rows = json.loads(place.read_text())["result"]["rows"] if place.is_file() else []
    result = dict(row["result"])
    new = {**row, "origin": result.pop("origin"), "result": result}
    names = [old["name"] for old in rows]
    if row["name"] in names:
        rows[names.index(row["name"])] = new
    else:
        rows.append(new)
    _write(place, {"result": {"rows": rows}})
    return place


def origin(seed: int | None, data_digest: str) -> dict[str, Any]:
    """How a result comes to be: command, seed, data, versions, machine, commit and date.

    Args:
        seed: of the run; None where nothing is random.
        data_digest: identifies the data.
    """
    return {
        "command": provenance.command(),
        "seed": seed,
        "data_digest": data_digest,
        "versions": provenance.versions(),
        "machine": provenance.machine(),
        "commit": provenance.commit(),
        "date": provenance.now(),
    }


def _write(place: Path, content: dict[str, Any]) -> None:
    storage.write_bytes(place, (json.dumps(content, indent=2) + "\n").encode())


def folder_digest(folder: str) -> str:
    """Identifies the files of a folder by their paths and sizes."""
    fs, _ = storage.filesystem(folder)
    names = storage.list_files(folder)
    return config.digest([[storage.relative(name, folder), fs.size(name)] for name in names])


def render_into(readme: Path) -> dict[str, Any]:
    """Writes every marked table of a Markdown file anew from the results of record.

    Returns:
        ``tables``: the names written.

    Raises:
        InputError: no such file, a name without a renderer, or a result that is not there.
    """
    if not readme.is_file():
        raise InputError(f"{readme}: no such file")
    names: list[str] = []

    def table(match: re.Match[str]) -> str:
        name = match[2]
        names.append(name)
        return match[1] + render(name, readme.parent / FOLDER) + match[3]

    text = MARKED.sub(table, readme.read_text())
    readme.write_text(text)
    return {"tables": names, "file": str(readme)}


def render(name: str, folder: Path = FOLDER) -> str:
    """The Markdown of one result of record.

    Raises:
        InputError: a name without a renderer, or a result that is not there.
    """
    if name == "models":
        return models_table() + "\n"
    study = name.startswith("tune_")
    if name not in RENDERERS and not study:
        raise InputError(
            f"results: {name}: unknown table; there are models, tune_PAPER_GRID,"
            f" {', '.join(RENDERERS)}"
        )
    place = folder / f"{name}.json"
    if not place.is_file():
        raise InputError(f"{place}: no such result; make it with the command in README.md")
    content = json.loads(place.read_text())
    text = _study(content["result"]) if study else RENDERERS[name](content["result"])
    if "origin" in content:
        return f"{text}\n{_made(content['origin'])}\n"
    lines = [f"- {row['name']}: {_made(row['origin'])}\n" for row in content["result"]["rows"]]
    return f"{text}\nMade by\n\n{''.join(lines)}"


def _made(made: dict[str, Any]) -> str:
    machine = made["machine"]
    gpu = f", {machine['gpu']}" if "gpu" in machine else ""
    return (
        f"`{made['command']}`, {made['date'][:10]}, {machine['processor']},"
        f" {machine['cores']} cores{gpu}, commit {made['commit']}."
    )


def _segmentation(result: dict[str, Any]) -> str:
    columns = ["fields", "annotated heads", "precision", "recall", "F1", "mean IoU"]
    columns += ["acrosome up", "CPU seconds per field, median"]
    rows = [
        [
            f"{name} ({part['fields']})",
            str(part["annotated"]),
            *(f"{part[key]:.3f}" for key in ("precision", "recall", "f1", "mean_iou")),
            f"{part['acrosome_up_fraction']:.1%}",
            f"{part['seconds_per_field']['median']:.3f}",
        ]
        for name, part in result["fields"].items()
    ]
    text = markdown(columns, rows) + "\n"
    columns = ["single-head images", "images", "exactly one head", "aspect ratio, median (IQR)"]
    columns += ["by Otsu's threshold"]
    rows = [
        [
            f"{name}: {row['name']}",
            str(row["images"]),
            f"{row['exactly_one_fraction']:.1%}",
            "{median:.2f} ({q1:.2f} to {q3:.2f})".format(**row["aspect"]),
            f"{row['otsu_aspect']:.2f}",
        ]
        for name, part in result["single"].items()
        for row in part["classes"]
    ]
    return text + markdown(columns, rows)


def _demo(result: dict[str, Any]) -> str:
    columns = [
        "patient",
        "crops",
        "true fraction",
        "called bound",
        "prevalence (95% CI)",
        "verdict",
    ]
    rows = [
        [
            row["patient_id"],
            str(row["n_scored"]),
            f"{row['truth_bound_fraction']:.1%}",
            f"{row['fraction']:.1%}",
            f"{row['prevalence']:.1%} ({row['prevalence_ci_low']:.1%} to"
            f" {row['prevalence_ci_high']:.1%})",
            row["verdict"],
        ]
        for row in result["patients"]
    ]
    return markdown(columns, rows)


def _real_smear(result: dict[str, Any]) -> str:
    columns = ["session", "fields", "heads", "called normal (95% CI)", "corrected (95% CI)"]
    rows = [
        [
            row["patient_id"],
            str(row["fields"]),
            str(row["n_scored"]),
            f"{row['fraction']:.1%} ({row['ci_low']:.1%} to {row['ci_high']:.1%})",
            f"{row['prevalence']:.1%} ({row['prevalence_ci_low']:.1%} to"
            f" {row['prevalence_ci_high']:.1%})",
        ]
        for row in result["sessions"]
    ]
    operating = result["model"]["operating"]
    return (
        f"{result['fields']} fields, {result['rows_in']} heads, {result['rejected_candidates']}"
        f" candidates left out by rule. Network: {result['model']['model']}, trained on"
        f" {result['training_heads']} HuSHeM heads; held-out accuracy"
        f" {result['model']['metrics']['accuracy']:.3f}, Normal: sensitivity"
        f" {operating['sensitivity']:.3f} of {operating['n_positive']}, specificity"
        f" {operating['specificity']:.3f} of {operating['n_negative']}.\n\n"
        + markdown(columns, rows)
    )


def _study(result: dict[str, Any]) -> str:
    """A study of ``fertiray tune``: its own table, and how it was made."""
    how = result["protocol"]
    settings = ", ".join(how["settings"]) or "the paper's settings"
    return (
        f"{result['table']}\n\n{how['images']} images, {how['folds']} folds, repeats:"
        f" {how['repeats']}; {settings}.\n"
    )


RENDERERS: dict[str, Callable[[dict[str, Any]], str]] = {
    "segmentation": _segmentation,
    "demo": _demo,
    "real_smear": _real_smear,
    "hushem": crossval_table,
    "smids": crossval_table,
    "hungvuong": day_table,
    "bench_models": models_bench_table,
    "bench_models_cuda": models_bench_table,
    "bench_memory": memory_table,
    "bench_memory_cuda": memory_table,
    "bench_pipeline": pipeline_table,
    "bench_serve": serve_table,
    "bench_scale": scale_table,
    "bench_adaptive": adaptive_table,
    "bench_chaos": chaos_table,
    "bench_train": lambda result: measures_table(
        result, ("plain_step_ms", "ray_step_ms", "overhead")
    ),
    "bench_tune": lambda result: measures_table(
        result, ("ratio_to_plain", "ratio_to_torch_trainer", "work_s")
    ),
}
