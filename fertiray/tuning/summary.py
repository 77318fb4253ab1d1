"""What the trials of a grid come to: each cell over its folds, and against the first cell."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from statsmodels.stats.multitest import multipletests

from fertiray import config
from fertiray.errors import InputError
from fertiray.evaluation.comparison import COMPARED, compare, fold_metrics
from fertiray.evaluation.metrics import SCALARS, corrected_t, fold_summary
from fertiray.papers.reported import REPORTED, Row, row_of_task
from fertiray.training.config import TrainConfig
from fertiray.tuning.cells import Cell
from fertiray.tuning.trials import Trial

Line = dict[str, Any]
POOLED = ("n", "accuracy", "macro_f1", "roc_auc", "sensitivity", "specificity", "confusion", "ci")


@dataclass(frozen=True)
class Done:
    """A cell with what is known of it.

    Attributes:
        cell: its declaration.
        settings: its recipe.
        trials: its folds, of all repeats.
        lines: of those that are finished, in their order.
        results: of :func:`fertiray.training.crossval.crossval` by repeat, of those that are whole.
        errors: of its trials that failed.
        efficiency: of :func:`fertiray.tuning.efficiency.efficiency`; empty where not measured.
    """

    cell: Cell
    settings: TrainConfig
    trials: Sequence[Trial]
    lines: Sequence[Line]
    results: Mapping[int, dict[str, Any]]
    errors: Sequence[str]
    efficiency: dict[str, Any] = field(default_factory=dict)


def trial_rows(
    trials: Sequence[Trial], lines: Mapping[str, Line], errors: Mapping[str, str], new: set[str]
) -> list[dict[str, Any]]:
    """One row a trial, for the table of trials.

    Args:
        trials: of the grid.
        lines: of the finished ones, by place.
        errors: of the failed ones, by place.
        new: places of those that this call finished.
    """
    rows = []
    for trial in trials:
        line = lines.get(trial.place)
        rows.append(
            {
                "cell": trial.cell,
                "repeat": trial.repeat,
                "fold": trial.fold,
                "model": trial.settings.model,
                "status": "failed" if line is None else "finished",
                "kept": line is not None and trial.place not in new,
                "error": errors.get(trial.place),
                "address": trial.folder.rpartition("/")[2],
                "config_digest": config.digest(trial.settings),
                "n": line and line["n"],
                "epochs": line and line["epochs"][0],
                "seconds": line and line["seconds"],
                **_metrics(line or {}),
            }
        )
    return rows


def summarise(done: Sequence[Done], folds: int) -> list[dict[str, Any]]:
    """Each cell's summary, with what the paper reports and how it compares with the first cell.

    Args:
        done: the cells in the order of the table.
        folds: of each cross-validation.

    Returns:
        By cell ``cell``, ``model``, ``settings`` (changes of the paper's recipe), ``address`` by
        repeat, ``trials``, ``finished``, ``errors``, ``seconds`` (mean of a trial), ``looks``
        (``mean``, ``sd``, ``ci95``, ``n`` by name), ``efficiency``, and ``tasks``: by task
        ``metrics`` (``mean``, ``sd``, ``ci95``, ``n`` by metric, over all finished trials),
        ``pooled`` (over all images of the first repeat, where it is whole), ``reported`` and
        ``against_first``: :func:`fertiray.evaluation.comparison.compare` with the first cell,
        over the differences of all repeats, with p values after Holm over the grid's cells;
        McNemar's test is of the first repeat. None for the first cell, and where folds are missing.
    """
    found = [_cell(own, done[0], folds) for own in done]
    _adjust(found)
    return found


def best_cell(cells: Sequence[dict[str, Any]], metric: str) -> dict[str, Any] | None:
    """The cell with the highest mean of a metric in the first cell's first task.

    Args:
        cells: of :func:`summarise`.
        metric: its name.

    Returns:
        ``cell``, ``task``, ``metric`` and that metric's summary; None where nothing is finished, or
        no cell has a repeat without gaps.
    """
    whole = [cell for cell in cells if cell["finished"] == cell["trials"]]
    task = next((task for cell in cells for task in cell["tasks"]), None)
    known = [
        (cell["tasks"][task]["metrics"][metric], cell["cell"])
        for cell in whole
        if task in cell["tasks"] and cell["tasks"][task]["metrics"][metric]["mean"] is not None
    ]
    if not known:
        return None
    # The first of equals: cells stand in the order of growing effort.
    summary, name = max(known, key=lambda pair: pair[0]["mean"])
    return {"cell": name, "task": task, "metric": metric, **summary}


def _cell(own: Done, first: Done, folds: int) -> dict[str, Any]:
    seconds = [line["seconds"] for line in own.lines]
    looks = sorted({name for line in own.lines for name in line.get("looks", {})})
    compared = {} if own is first else _against(own, first, folds)
    return {
        "cell": own.cell.name,
        "model": own.settings.model,
        "recipe": own.cell.model,
        "settings": list(own.cell.settings),
        "address": list(dict.fromkeys(trial.folder.rpartition("/")[2] for trial in own.trials)),
        "trials": len(own.trials),
        "finished": len(own.lines),
        "errors": list(own.errors),
        "seconds": sum(seconds) / len(seconds) if seconds else None,
        "looks": {
            name: fold_summary([line.get("looks", {}).get(name) for line in own.lines])
            for name in looks
        },
        "efficiency": own.efficiency,
        "tasks": {
            task: {
                "metrics": {
                    metric: fold_summary(
                        [fold_metrics(line, task).get(metric) for line in own.lines]
                    )
                    for metric in SCALARS
                },
                "pooled": _pooled(own.results, task),
                "reported": _reported(own.cell, task),
                "against_first": compared.get(task),
            }
            for task in _tasks(own)
        },
    }


def _tasks(own: Done) -> list[str]:
    if not own.lines:
        return []
    return list(own.lines[0].get("tasks", {})) or [own.settings.task or "class"]


def _pooled(results: Mapping[int, dict[str, Any]], task: str) -> dict[str, Any] | None:
    if 1 not in results:
        return None
    result = results[1]
    part = result["tasks"][task] if "tasks" in result else result
    return {key: part["pooled"][key] for key in POOLED}


def _reported(cell: Cell, task: str) -> Row:
    """The paper's row: of the task, or of the cell where its key has no such row."""
    if cell.reported is None:
        return {}
    paper, table, row = row_of_task(cell.reported, task).split("/", 2)
    return REPORTED[paper][table].rows.get(row, {})


def _against(own: Done, first: Done, folds: int) -> dict[str, dict[str, Any]]:
    """By task, the comparison with the first cell over the repeats that both have whole."""
    by_task: dict[str, list[dict[str, Any]]] = {}
    for repeat in sorted(set(own.results) & set(first.results)):
        try:
            found = compare(own.results[repeat], first.results[repeat])
        except InputError:  # no task in common
            continue
        for task, part in found.items():
            by_task.setdefault(task, []).append(part)
    return {task: _joined(parts, folds) for task, parts in by_task.items()}


def _joined(parts: list[dict[str, Any]], folds: int) -> dict[str, Any]:
    joined: dict[str, Any] = {"mcnemar": parts[0]["mcnemar"]}
    for metric in COMPARED:
        differences = [d for part in parts if metric in part for d in part[metric]["differences"]]
        if len(differences) > 1:
            test = corrected_t(differences, 1 / folds)
            joined[metric] = {"differences": differences, **test}
    return joined


def _adjust(cells: list[dict[str, Any]]) -> None:
    """Adds ``p_holm`` to the corrected tests: Holm's adjustment over the cells, by task."""
    tasks = dict.fromkeys(task for cell in cells for task in cell["tasks"])
    for task in tasks:
        for metric in COMPARED:
            tests = [
                own["tasks"][task]["against_first"][metric]["corrected"]
                for own in cells
                if metric in ((own["tasks"].get(task) or {}).get("against_first") or {})
            ]
            known = [test for test in tests if test["p"] is not None]
            if known:
                adjusted = multipletests([test["p"] for test in known], method="holm")[1]
                for test, p in zip(known, adjusted.tolist(), strict=True):
                    test["p_holm"] = p


def _metrics(line: Line) -> dict[str, Any]:
    """Metrics of the first task, as columns; of several tasks each with its name before it."""
    if "tasks" not in line:
        own = line.get("metrics", {})
        return {**{metric: own.get(metric) for metric in SCALARS}, **line.get("looks", {})}
    return {
        f"{task}_{metric}": part["metrics"][metric]
        for task, part in line["tasks"].items()
        for metric in SCALARS
    }


def limits(summary: Mapping[str, Any]) -> list[float] | None:
    """The interval of a mean share, cut to [0, 1]: Student's t knows no limits, a share does."""
    found = summary["ci95"]
    return None if found is None else [min(max(limit, 0.0), 1.0) for limit in found]


def settings_columns(settings: TrainConfig) -> dict[str, Any]:
    """A recipe's plain settings as columns: nested ones with a dot, lists as text."""
    found: dict[str, Any] = {}

    def add(prefix: str, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            if isinstance(value, Mapping):
                add(f"{prefix}{key}.", value)
            else:
                plain = value is None or isinstance(value, bool | int | float | str)
                found[prefix + key] = value if plain else str(value)

    add("", dataclasses.asdict(settings))
    return found
