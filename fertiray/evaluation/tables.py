"""Markdown tables: our cross-validated results beside the papers' numbers.

A row of a result of record holds ``name``; ``result``, as
:func:`fertiray.training.crossval.crossval` returns it; ``reported``, a key into
:mod:`fertiray.papers.reported` or None; ``note``; and ``protocol``, in words or as the
result has it, where the result's own is not to be printed.
"""

from __future__ import annotations

from typing import Any

from fertiray.evaluation.metrics import SCALARS
from fertiray.papers.reported import reported

DAYS = ("D3", "D5")


def markdown(columns: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def crossval_table(result: dict[str, Any]) -> str:
    """One line a configuration, for sets without facets (HuSHeM, SMIDS).

    Args:
        result: ``rows``; see the top of this file.
    """
    columns = ["configuration", "protocol", "images", "accuracy, mean ± sd of folds (95% CI, t)"]
    columns += ["accuracy, all images (95% CI)", "macro F1 (95% CI)", "ROC-AUC (95% CI)", "paper"]
    rows = [
        [*_head(row), *_accuracy(row), *_pooled(row["result"]["pooled"]), _paper(row)]
        for row in result["rows"]
    ]
    return markdown(columns, rows) + _notes(result["rows"])


def day_table(result: dict[str, Any]) -> str:
    """One line a configuration, pooled and by day, with the day-only rule of the same images.

    Args:
        result: ``rows``; see the top of this file.
    """
    columns = ["configuration", "protocol", "images", "accuracy, mean ± sd of folds (95% CI, t)"]
    columns += ["accuracy, all images (95% CI)", "macro F1 (95% CI)", "ROC-AUC (95% CI)"]
    for day in DAYS:
        columns += [f"{day}: macro F1", f"{day}: ROC-AUC (95% CI)"]
    columns += ["paper"]
    rows = [
        [
            *_head(row),
            *_accuracy(row),
            *_pooled(row["result"]["pooled"]),
            *_by_day(row["result"]["within"]["day"]),
            _paper(row),
        ]
        for row in result["rows"]
    ]
    rules = {row["result"]["data_digest"]: row["result"]["day_rule"] for row in result["rows"]}
    for rule in rules.values():
        pooled = rule["pooled"]
        # Nothing is fitted, so there are no folds.
        head = ["day only", "good if and only if D5", str(pooled["n"]), ""]
        own = [interval(pooled, "accuracy", percent=True), *_pooled(pooled)]
        rows.append([*head, *own, *_by_day(rule["within"]), ""])
    return markdown(columns, rows) + _notes(result["rows"])


def interval(measured: dict[str, Any], metric: str, *, percent: bool = False) -> str:
    """A metric with its 95% interval: ``0.861 (0.812 to 0.905)``; a dash where it is not known.

    Args:
        measured: as :func:`fertiray.evaluation.metrics.measure` returns it.
        metric: its name.
        percent: print shares as percentages.
    """
    value = measured[metric]
    if value is None:
        return "–"
    text = f"{value:.1%}" if percent else f"{value:.3f}"
    return text + _in_brackets(_limits(measured["ci"].get(metric), metric, percent=percent))


def protocol_text(protocol: dict[str, Any]) -> str:
    """How a result was had, in a few words: network, frame, epochs, size, folds."""
    backbone = f" ({protocol['backbone']})" if protocol.get("backbone") else ""
    parts = [
        protocol["model"] + backbone,
        "head frame" if protocol["frame"] == "head" else "as is",
        f"{protocol['size']} px",
        f"{protocol['epochs']} epochs",
        f"{protocol['folds']} folds",
    ]
    if protocol["views"] != "one":
        parts.append(
            {"flip": "2 views", "swing": "6 views", "dihedral": "8 views"}[protocol["views"]]
        )
    if protocol["members"] > 1:
        parts.append(f"{protocol['members']} networks averaged")
    return ", ".join(parts)


def crossval_rows(result: dict[str, Any]) -> list[list[str]]:
    """For the terminal: measure; mean and sd over folds; its 95% CI; all images with 95% CI.

    Args:
        result: of :func:`fertiray.training.crossval.crossval`.
    """
    rows = []
    for task, part in _tasks(result).items():
        for metric in SCALARS:
            mean, sd = part["mean"][metric], part["sd"][metric]
            if mean is None:
                continue
            over_folds = f"{mean:.3f}" if sd is None else f"{mean:.3f} ± {sd:.3f}"
            pooled = interval(part["pooled"], metric)
            rows.append([task + metric, over_folds, _limits(part["ci95"][metric], metric), pooled])
        rows += [
            [name, "", "", value + _in_brackets(limits)]
            for name, value, limits in _facet_rows(task, part)
        ]
    return rows


def measured_rows(result: dict[str, Any]) -> list[list[str]]:
    """For the terminal: measure, value, 95% CI.

    Args:
        result: of :func:`fertiray.training.evaluate.evaluate`.
    """
    rows = [[f"images ({result['split']})", str(result["n"]), ""]]
    rows += [["seen in training", str(result["seen_in_training"]), ""]]
    for task, part in _tasks(result).items():
        rows += [
            [task + metric, f"{part[metric]:.3f}", _limits(part["ci"].get(metric), metric)]
            for metric in SCALARS
            if part[metric] is not None
        ]
        rows += _facet_rows(task, part)
    return rows


def _tasks(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The parts of a result by what their measures are called after: the task, if several."""
    if "tasks" not in result:
        return {"": result}
    return {f"{task}: ": part for task, part in result["tasks"].items()}


def _facet_rows(task: str, part: dict[str, Any]) -> list[list[str]]:
    """Accuracy, macro F1 and ROC-AUC within each value of a facet, and of the day-only rule."""
    apart = {
        f"{value}: ": measured
        for values in part.get("within", {}).values()
        for value, measured in values.items()
    }
    if "day_rule" in part:
        apart["day only: "] = part["day_rule"]["pooled"]
    return [
        [
            f"{task}{name}{metric}",
            f"{measured[metric]:.3f}",
            _limits(measured["ci"].get(metric), metric),
        ]
        for name, measured in apart.items()
        for metric in ("accuracy", "macro_f1", "roc_auc")
        if measured[metric] is not None
    ]


def _head(row: dict[str, Any]) -> list[str]:
    result = row["result"]
    protocol = row.get("protocol") or result["protocol"]
    text = protocol if isinstance(protocol, str) else protocol_text(protocol)
    return [row["name"], text, str(result["n"])]


def _accuracy(row: dict[str, Any]) -> list[str]:
    result = row["result"]
    mean, sd = result["mean"]["accuracy"], result["sd"]["accuracy"]
    limits = result["ci95"]["accuracy"]
    text = f"{mean:.1%}"
    if sd is not None:
        text = f"{100 * mean:.1f} ± {sd:.1%}"
        text += _in_brackets(_limits(limits, "accuracy", percent=True))
    return [text, interval(result["pooled"], "accuracy", percent=True)]


def _pooled(measured: dict[str, Any]) -> list[str]:
    return [interval(measured, "macro_f1"), interval(measured, "roc_auc")]


def _by_day(within: dict[str, Any]) -> list[str]:
    cells = []
    for day in DAYS:
        if day in within:
            cells += [f"{within[day]['macro_f1']:.3f}", interval(within[day], "roc_auc")]
        else:
            cells += ["–", "–"]
    return cells


def _paper(row: dict[str, Any]) -> str:
    """The paper's accuracy, macro F1 and ROC-AUC, as far as it prints them."""
    if not row.get("reported"):
        return ""
    values = reported(row["reported"])
    texts = []
    if "accuracy" in values:
        sd = values.get("accuracy_sd")
        spread = "" if sd is None else f" ± {sd:.1%}"
        texts.append(f"{values['accuracy']:.1%}{spread}")
    for metric, name in (("macro_f1", "F1"), ("roc_auc", "AUC")):
        if metric in values:
            texts.append(f"{name} {values[metric]:.3f}")
    return ", ".join(texts)


def _notes(rows: list[dict[str, Any]]) -> str:
    lines = [f"- {row['name']}: {row['note']}" for row in rows if row.get("note")]
    return "\n" + "\n".join(lines) + "\n" if lines else ""


def _limits(limits: list[float] | None, metric: str, *, percent: bool = False) -> str:
    """``0.812 to 0.905``; empty where it is not known."""
    if limits is None:
        return ""
    # Limits from Student's t may pass 0 and 1; a share does not, a log loss may be large.
    most = float("inf") if metric == "log_loss" else 1.0
    low, high = (min(max(limit, 0.0), most) for limit in limits)
    return f"{low:.1%} to {high:.1%}" if percent else f"{low:.3f} to {high:.3f}"


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""
