"""Charts hold the numbers of the results of record and of the papers."""

import json
from pathlib import Path

import numpy as np
import pytest

from fertiray.evaluation.figures.charts import (
    ablation_figure,
    folds_figure,
    record_rows,
    sweep_figure,
)
from fertiray.papers.reported import reported

RECORDS = Path(__file__).parents[3] / "dashboards" / "results"


def test_a_result_of_record_beside_the_papers_value():
    record = json.loads((RECORDS / "hushem.json").read_text())
    rows = record_rows(record)
    first, pooled = rows[0], record["result"]["rows"][0]["result"]["pooled"]
    paper = reported(record["result"]["rows"][0]["reported"])
    assert (first["value"], first["ci"]) == (pooled["accuracy"], pooled["ci"]["accuracy"])
    assert (first["reported"], first["reported_sd"]) == (paper["accuracy"], paper["accuracy_sd"])
    texts = [text.get_text() for text in ablation_figure(rows).axes[0].texts]
    assert f"{paper['accuracy']:.3f} ± {paper['accuracy_sd']:.3f}" in texts
    low, high = pooled["ci"]["accuracy"]
    assert f"{pooled['accuracy']:.3f} ({low:.3f} to {high:.3f})" in texts


def test_rows_without_interval_or_paper_and_metrics_that_are_not_known():
    pooled = {"accuracy": 0.9, "roc_auc": None, "ci": {"accuracy": None}}
    record = {"result": {"rows": [{"name": "own", "reported": None, "result": {"pooled": pooled}}]}}
    assert record_rows(record, "roc_auc") == []
    (axes,) = ablation_figure(record_rows(record)).axes
    assert [text.get_text() for text in axes.texts] == ["0.900", "● ours (95% CI)", "◇ paper"]
    assert [line.get_xydata().tolist() for line in axes.get_lines()] == [[[0.9, 0]]]


def test_rows_stand_in_their_order_from_above():
    row = {"ci": [0.8, 0.9], "reported": 0.95, "reported_sd": None}
    (axes,) = ablation_figure(
        [{**row, "name": "first", "value": 0.85}, {**row, "name": "second", "value": 0.86}]
    ).axes
    by_place = dict(zip(axes.get_yticks(), axes.get_yticklabels(), strict=True))
    assert by_place[1].get_text() == "first"
    assert by_place[0].get_text() == "second"


def test_the_sweep_marks_the_papers_best_and_leaves_gaps():
    points = [
        {"n": 3, "accuracy": 0.9, "accuracy_ci": [0.8, 0.95], "kept_mb": 2.0, "params": 44.35e6},
        {"n": 0, "accuracy": 0.8, "kept_mb": None, "params": 44.35e6},
    ]
    accuracy, memory, params = sweep_figure(points).axes
    assert accuracy.get_lines()[0].get_xydata().tolist() == [[0, 0.8], [3, 0.9]]
    assert np.isnan(memory.get_lines()[0].get_ydata()).tolist() == [True, False]
    assert params.get_lines()[0].get_ydata() == pytest.approx([44.35, 44.35])
    assert accuracy.get_legend().get_texts()[0].get_text() == "paper's best"
    assert [line.get_xdata()[0] for line in params.get_lines()[1:]] == [3]
    (alone,) = sweep_figure([{"n": 1, "accuracy": 0.5}], None).axes
    assert alone.get_legend() is None


def test_folds_are_paired_and_their_means_written():
    (axes,) = folds_figure({"a": [0.8, 0.9], "b": [0.7, None], "c": [None, None]}).axes
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["a\nmean 0.850", "b\nmean 0.700", "c\nnot known"]
    first, second = axes.get_lines()[:2]
    assert first.get_ydata()[:2].tolist() == [0.8, 0.7]
    assert second.get_ydata()[0] == 0.9
    assert np.isnan(second.get_ydata()[1:]).all()
