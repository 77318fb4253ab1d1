"""Two cross-validations over the same folds, against each other."""

from __future__ import annotations

from typing import Any

from fertiray.errors import InputError
from fertiray.evaluation.metrics import corrected_t, mcnemar

COMPARED = ("accuracy", "macro_f1", "roc_auc")


def compare(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Two cross-validations over the same folds: a minus b.

    Args:
        a: a result of :func:`fertiray.training.crossval.crossval`.
        b: another, with the same data, folds and seed.

    Returns:
        By task that both have: ``accuracy``, ``macro_f1`` and ``roc_auc``, each with the
        differences by fold and :func:`fertiray.evaluation.metrics.corrected_t`; and ``mcnemar`` on
        the labels of all images.

    Raises:
        InputError: other folds, or no task in common.
    """
    if a["split_digest"] != b["split_digest"]:
        raise InputError(
            f"the results have different folds ({a['split_digest']}, {b['split_digest']}): run both"
            " on the same data with the same --folds and --seed"
        )
    parts_a, parts_b = _by_task(a), _by_task(b)
    shared = [task for task in parts_a if task in parts_b]
    if not shared:
        raise InputError(
            f"the results have no task in common: {', '.join(parts_a)}; {', '.join(parts_b)}"
        )
    share = 1 / len(a["folds"])
    found = {}
    for task in shared:
        own: dict[str, Any] = {}
        for metric in COMPARED:
            pairs = [
                (fold_metrics(first, task).get(metric), fold_metrics(second, task).get(metric))
                for first, second in zip(a["folds"], b["folds"], strict=True)
            ]
            differences = [x - y for x, y in pairs if x is not None and y is not None]
            if len(differences) > 1:
                own[metric] = {"differences": differences, **corrected_t(differences, share)}
        calls_a, calls_b = parts_a[task]["calls"], parts_b[task]["calls"]
        own["mcnemar"] = mcnemar(_right(calls_a), _right(calls_b))
        found[task] = own
    return found


def fold_metrics(line: dict[str, Any], task: str) -> dict[str, Any]:
    """A fold's metrics in one task; empty where none of its images is graded in it."""
    own = line["tasks"].get(task, {}) if "tasks" in line else line
    found: dict[str, Any] = own.get("metrics", {})
    return found


def _by_task(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    tasks: dict[str, dict[str, Any]] = result.get("tasks") or {result["task"]: result}
    return tasks


def _right(calls: dict[str, str]) -> list[bool]:
    return [x == y for x, y in zip(calls["truth"], calls["called"], strict=True)]
