"""The figures of a study, from its result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from fertiray.evaluation.figures.charts import ablation_figure
from fertiray.evaluation.figures.study import (
    learning_curves,
    parallel_coordinates,
    setting_sweep,
)
from fertiray.tuning.cells import Grid, Space
from fertiray.tuning.summary import Done, limits, settings_columns

METRICS = {"accuracy": "accuracy", "macro_f1": "macro F1"}
CURVES = {
    "training_loss": "training loss",
    "validation_loss": "validation loss",
    "validation_macro_f1": "validation macro F1",
}
COSTS = {
    "kept_mb": "kept for backward,\nMB an image",
    "peak_mb": "peak of a step, MB",
    "latency_ms": "latency, ms",
}
CURVES_DRAWN = 8  # the best trials of a search


def grid_figures(
    grid: Grid, done: Sequence[Done], cells: Sequence[dict[str, Any]]
) -> dict[str, Figure]:
    """Ours beside the paper's, the sweep, and how the cells learned.

    Args:
        grid: its declaration.
        done: the cells with their trials.
        cells: of :func:`fertiray.tuning.summary.summarise`.

    Returns:
        By file name; only those that there is something to draw for.
    """
    figures = {}
    tasks = list(dict.fromkeys(task for cell in cells for task in cell["tasks"]))
    for task in tasks:
        for metric in METRICS:
            rows = _bars([cell for cell in cells if task in cell["tasks"]], task, metric)
            if rows:
                stem = f"ablation-{task}" if len(tasks) > 1 else "ablation"
                figures[f"{stem}-{metric}"] = ablation_figure(rows, metric)
    if grid.sweep is not None and tasks:
        figures |= _sweep(grid, grid.sweep, done, cells, tasks[0])
    histories = {
        own.cell.name: [history for line in own.lines for history in line.get("history", [])]
        for own in done
    }
    known = {name: own for name, own in histories.items() if own}
    if known:
        there = {key for own in known.values() for key in own[0][0]}
        shown = {key: title for key, title in CURVES.items() if key in there}
        figures["curves"] = learning_curves(known, shown)
    return figures


def search_figures(
    space: Space, trials: Sequence[dict[str, Any]], histories: Sequence[list[dict[str, float]]]
) -> dict[str, Figure]:
    """Parallel coordinates of all trials, and how the best of them learned.

    Args:
        space: that was searched.
        trials: with ``number``, ``parameters`` and ``value``, best first.
        histories: their epoch lines.

    Returns:
        By file name.
    """
    figures = {}
    if trials:
        figures["parallel"] = parallel_coordinates(
            [{**trial["parameters"], "value": trial["value"]} for trial in trials],
            list(space.domains),
            space.metric.replace("_", " "),
            low_is_good=space.mode == "min",
        )
    curves = {
        f"trial {trial['number']}": [history]
        for trial, history in list(zip(trials, histories, strict=True))[:CURVES_DRAWN]
        if history
    }
    if curves:
        figures["curves"] = learning_curves(curves, {space.metric: space.metric.replace("_", " ")})
    return figures


def _bars(cells: Sequence[dict[str, Any]], task: str, metric: str) -> list[dict[str, Any]]:
    rows = []
    for cell in cells:
        part = cell["tasks"][task]
        summary, paper = part["metrics"][metric], part["reported"]
        if summary["mean"] is not None:
            rows.append(
                {
                    "name": cell["cell"],
                    "value": summary["mean"],
                    "ci": limits(summary),
                    "reported": paper.get(metric),
                    "reported_sd": paper.get(f"{metric}_sd"),
                }
            )
    return rows


def _sweep(
    grid: Grid, setting: str, done: Sequence[Done], cells: Sequence[dict[str, Any]], task: str
) -> dict[str, Figure]:
    points = []
    for own, cell in zip(done, cells, strict=True):
        if task not in cell["tasks"]:
            continue
        part = cell["tasks"][task]
        point: dict[str, Any] = {"x": settings_columns(own.settings)[setting]}
        measures = {grid.metric: part["metrics"][grid.metric], **cell["looks"]}
        for name, summary in measures.items():
            point[name] = summary["mean"]
            point[f"{name}_ci"] = limits(summary)
            point[f"{name}_paper"] = part["reported"].get(name)
        for name in COSTS:
            value = cell["efficiency"].get(name)
            point[name] = value["median"] if isinstance(value, dict) else value
        points.append(point)
    titles = {grid.metric: METRICS.get(grid.metric, grid.metric), **COSTS}
    known = [name for name in points[0] if any(point.get(name) is not None for point in points)]
    panels = {
        name: titles.get(name, name.replace("_", " "))
        for name in known
        if name != "x" and not name.endswith(("_ci", "_paper"))
    }
    return {"sweep": setting_sweep(points, panels, setting)} if panels else {}
