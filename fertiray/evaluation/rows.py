"""Measures as rows of a terminal table: name, value, limits."""

from __future__ import annotations

from typing import Any

SHOWN = (
    *("accuracy", "macro_precision", "macro_recall", "macro_f1"),
    *("roc_auc", "average_precision", "sensitivity", "specificity"),
)


def measured_rows(values: dict[str, Any]) -> list[list[str]]:
    """Rows of what :func:`fertiray.evaluation.metrics.measure` gave: measure, value, 95% CI."""
    rows = [["images", str(values["n"]), ""]]
    rows += [
        [name, _number(values[name]), _limits(values["ci"].get(name))]
        for name in SHOWN
        if values.get(name) is not None
    ]
    return rows


def crossval_rows(values: dict[str, Any]) -> list[list[str]]:
    """Rows of a cross-validation: measure, mean and sd of folds, t interval, all images."""
    pooled = values["pooled"]
    rows = []
    for name in SHOWN:
        if values["mean"].get(name) is None:
            continue
        spread = f"{_number(values['mean'][name])} ± {_number(values['sd'][name])}"
        together = f"{_number(pooled[name])} {_limits(pooled['ci'].get(name))}".strip()
        rows.append([name, spread, _limits(values["ci95"][name]), together])
    return rows


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _limits(limits: list[float] | None) -> str:
    return "" if limits is None else f"{limits[0]:.3f} to {limits[1]:.3f}"
