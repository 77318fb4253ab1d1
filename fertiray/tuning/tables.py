"""A study as Markdown: each cell's mean over folds beside the paper's; the trials of a search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fertiray.evaluation.tables import markdown
from fertiray.papers.reported import Row
from fertiray.tuning.summary import limits

SHOWN = {"accuracy": "accuracy", "macro_f1": "macro F1", "roc_auc": "ROC-AUC"}
BEST_SHOWN = 20


def grid_table(cells: Sequence[dict[str, Any]], metric: str) -> str:
    """One line for each cell and task.

    Args:
        cells: of :func:`fertiray.tuning.summary.summarise`.
        metric: whose difference from the first cell is shown.
    """
    looks = list(dict.fromkeys(name for cell in cells for name in cell["looks"]))
    costs = [key for key in _COSTS if any(_cost(cell, key) is not None for cell in cells)]
    columns = ["configuration", "trials"]
    columns += [f"{name}, mean ± sd (95% CI, t)" for name in SHOWN.values()]
    columns += [f"{name.replace('_', ' ')}, mean ± sd (95% CI, t)" for name in looks]
    columns += [_COSTS[key] for key in costs]
    columns += ["paper", f"{SHOWN.get(metric, metric)} less the first's (corrected p; after Holm)"]
    rows = []
    for cell in cells:
        for task, part in (cell["tasks"] or {"": None}).items():
            name = cell["cell"] if len(cell["tasks"]) < 2 else f"{cell['cell']}: {task}"
            metrics = part["metrics"] if part else {}
            rows.append(
                [
                    name,
                    _counted(cell),
                    *(_mean(metrics.get(key)) for key in SHOWN),
                    *(_mean(cell["looks"].get(key)) for key in looks),
                    *(_number(_cost(cell, key)) for key in costs),
                    paper_text(part["reported"], looks) if part else "",
                    _difference(part["against_first"], metric) if part else "",
                ]
            )
    notes = [f"- {cell['cell']}: {error}" for cell in cells for error in cell["errors"]]
    return markdown(columns, rows) + ("\n" + "\n".join(notes) + "\n" if notes else "")


def search_table(trials: Sequence[dict[str, Any]], metric: str) -> str:
    """The best trials of a search, a line each.

    Args:
        trials: with ``number``, ``parameters``, ``status``, ``epochs``, ``value``, best first.
        metric: that they are compared by.
    """
    names = list(trials[0]["parameters"]) if trials else []
    rows = [
        [
            str(trial["number"]),
            *(_number(trial["parameters"][name]) for name in names),
            str(trial["epochs"]),
            trial["status"],
            _number(trial["value"]),
        ]
        for trial in trials[:BEST_SHOWN]
    ]
    return markdown(["trial", *names, "epochs", "", metric.replace("_", " ")], rows)


def paper_text(row: Row, more: Sequence[str] = ()) -> str:
    """The paper's numbers in a few words: ``96.3% ± 0.3%, F1 0.968``.

    Args:
        row: of :mod:`fertiray.papers.reported`.
        more: other shares to print where the row has them.
    """
    texts = []
    if "accuracy" in row:
        spread = f" ± {row['accuracy_sd']:.1%}" if "accuracy_sd" in row else ""
        texts.append(f"{row['accuracy']:.1%}{spread}")
    texts += [
        f"{name} {row[key]:.3f}"
        for key, name in (("macro_f1", "F1"), ("roc_auc", "AUC"))
        if key in row
    ]
    texts += [f"{key.replace('_', ' ')} {row[key]:.1%}" for key in more if key in row]
    return ", ".join(texts)


_COSTS = {
    "params": "parameters, M",
    "kept_mb": "kept for backward, MB an image",
    "peak_mb": "peak of a step, MB",
    "latency_ms": "latency, ms",
}


def _cost(cell: dict[str, Any], key: str) -> float | None:
    value = cell["efficiency"].get(key)
    if value is None:
        return None
    return float(value["median"] if key == "latency_ms" else value) / (
        1e6 if key == "params" else 1.0
    )


def _counted(cell: dict[str, Any]) -> str:
    done, planned = cell["finished"], cell["trials"]
    return str(done) if done == planned else f"{done} of {planned}"


def _mean(summary: dict[str, Any] | None) -> str:
    if summary is None or summary["mean"] is None:
        return "–"
    interval = limits(summary)
    if interval is None:
        return f"{summary['mean']:.3f}"
    low, high = interval
    return f"{summary['mean']:.3f} ± {summary['sd']:.3f} ({low:.3f} to {high:.3f})"


def _difference(found: dict[str, Any] | None, metric: str) -> str:
    if found is None or metric not in found:
        return ""
    test = found[metric]
    text = f"{test['mean']:+.3f}"
    p = test["corrected"]["p"]
    return text if p is None else f"{text} ({p:.3f}; {test['corrected']['p_holm']:.3f})"


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
