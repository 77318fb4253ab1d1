"""Figures of cross-validations: each alone, those over the same folds, and beside the papers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fertiray.evaluation.calibration import fit_temperature, temper
from fertiray.evaluation.comparison import compare, fold_metrics
from fertiray.evaluation.figures.charts import ablation_figure, folds_figure, record_rows
from fertiray.evaluation.figures.entries import (
    Drawn,
    Entry,
    LeftOut,
    curves_entry,
    graded_entries,
)
from fertiray.evaluation.figures.look import p_text
from fertiray.evaluation.figures.sources import Graded, crossval_histories, read_crossval
from fertiray.evaluation.results import FOLDER
from fertiray.evaluation.tables import protocol_text
from fertiray.papers.reported import REPORTED

METRICS = ("accuracy", "macro_f1")


def crossval_entries(folders: Mapping[str, str], seed: int) -> Iterator[Entry]:
    """Figures of cross-validations, and of those over the same folds together.

    Args:
        folders: by the names that their figures get.
        seed: of the bootstrap.

    Raises:
        InputError: a folder is not one of a cross-validation.
    """
    results = {}
    for name, folder in folders.items():
        result, tasks = read_crossval(folder)
        results[name] = result
        source = f"{name}: {result['paper']}, {protocol_text(result['protocol'])}"
        for own in tasks:
            tempered, low, high = _cross_tempered(own)
            shown = {
                "as the networks say": own.probabilities,
                f"at the other folds' temperature, {low:.2f} to {high:.2f}": tempered,
            }
            n = len(own.labels)
            about = f"{n} images, each tested once by a network that had not learned from it"
            stem = f"{name}-{own.task}" if len(tasks) > 1 else name
            yield from graded_entries(stem, own, shown, about, source, seed)
        histories, kept = crossval_histories(result)
        missing = "the files of the folds carry no epochs"
        yield curves_entry(f"{name}-curves", histories, kept, source, missing)
    yield from _folds_entries(results)


def record_entries() -> Iterator[Entry]:
    """Ours beside the papers', from the results of record below the current folder."""
    records = {place.stem: json.loads(place.read_text()) for place in sorted(FOLDER.glob("*.json"))}
    crossvals = {name: own for name, own in records.items() if _of_images(own["result"])}
    if not crossvals:
        yield LeftOut("ablation", f"no cross-validation among the results of record in {FOLDER}")
    for name, record in crossvals.items():
        rows = record["result"]["rows"]
        keys = [row["reported"].split("/") for row in rows if row.get("reported")]
        papers = sorted({f"{paper}: {REPORTED[paper][table].protocol}" for paper, table, _ in keys})
        images = sorted({row["result"]["n"] for row in rows})
        for metric in METRICS:
            yield Drawn(
                f"ablation-{name}-{metric}",
                ablation_figure(record_rows(record, metric), metric),
                f"{name}: ours over all {' or '.join(map(str, images))} images, each tested once,"
                " with 95% confidence intervals, beside what the papers report"
                + (f" ({'; '.join(papers)})." if papers else "."),
                f"{FOLDER.as_posix()}/{name}.json",
            )


def _of_images(result: Mapping[str, Any]) -> bool:
    """Whether a result of record is of cross-validations; benchmarks have rows, too."""
    rows = result.get("rows", ())
    return bool(rows) and all("n" in row.get("result", ()) for row in rows)


def _cross_tempered(own: Graded) -> tuple[NDArray[np.float64], float, float]:
    """Each fold's probabilities at the temperature of all others, and those temperatures' range."""
    tempered, temperatures = own.probabilities.copy(), []
    for fold in np.unique(own.folds):
        inside = own.folds == fold
        temperature = fit_temperature(own.probabilities[~inside], own.labels[~inside])
        tempered[inside] = temper(own.probabilities[inside], temperature)
        temperatures.append(temperature)
    return tempered, min(temperatures), max(temperatures)


def _folds_entries(results: Mapping[str, dict[str, Any]]) -> Iterator[Entry]:
    same: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for name, result in results.items():
        for task in result.get("tasks") or [result["task"]]:
            same.setdefault((result["split_digest"], task), {})[name] = result
    found = [(task, own) for (_, task), own in same.items() if len(own) > 1]
    if not found:
        yield LeftOut("folds", "no two cross-validations over the same folds were given")
    for number, (task, own) in enumerate(found, 1):
        for metric in METRICS:
            folds = {
                name: [fold_metrics(line, task).get(metric) for line in result["folds"]]
                for name, result in own.items()
            }
            yield Drawn(
                f"folds-{number}-{metric}",
                folds_figure(folds, metric),
                f"The same {len(next(iter(folds.values())))} folds under {len(own)} methods, task"
                f" {task}: a line for each fold, a bar at the mean.{_compared(own, task, metric)}",
                ", ".join(own),
            )


def _compared(own: Mapping[str, dict[str, Any]], task: str, metric: str) -> str:
    """Mean difference and p of two methods; nothing for more."""
    if len(own) != 2:
        return ""
    test = compare(*own.values())[task].get(metric)
    if test is None or test["corrected"]["p"] is None:
        return ""
    p = p_text(test["corrected"]["p"])
    return f" Mean difference {test['mean']:+.3f}, {p} (corrected resampled t-test)."
