"""Predictions of several tasks, and of data that lack some of a network's classes."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from fertiray import parquet
from fertiray.data.labelled import UNLABELLED, LabelledCrops
from fertiray.evaluation.figures.sources import graded, read_crossval
from fertiray.training.predictions import Predictions

TASKS = {"EXP": ("0", "1"), "ICM": ("A", "B", "C")}


def predictions() -> Predictions:
    rng = np.random.default_rng(0)
    truth = np.stack([rng.integers(0, 2, 12), rng.integers(0, 3, 12)], 1)
    truth[[2, 5], 1] = UNLABELLED
    return Predictions(
        names=tuple(f"image {i}" for i in range(12)),
        patients=(None, None, *(f"P{i // 2}" for i in range(10))),
        groups=np.arange(12),
        facets={},
        tasks=TASKS,
        truth=truth,
        probabilities={task: rng.dirichlet([1] * len(own), 12) for task, own in TASKS.items()},
        positive="1",
        threshold=0.4,
    )


def test_each_task_has_its_own_images(tmp_path):
    own = predictions()
    tasks = {
        task: {"task": task, "pooled": found} for task, found in own.results(0, resamples=0).items()
    }
    table = own.table()
    for number, part in enumerate((table[:5], table[5:]), 1):
        parquet.write(str(tmp_path / f"fold-{number}.parquet"), part)
    result = {**tasks["EXP"], "tasks": tasks, "folds": [{"fold": 1}, {"fold": 2}]}
    (tmp_path / "crossval.json").write_text(json.dumps(result))
    _, (exp, icm) = read_crossval(str(tmp_path))
    assert (exp.task, exp.classes, exp.positive, exp.threshold) == ("EXP", TASKS["EXP"], "1", 0.4)
    assert (icm.task, icm.positive, icm.threshold) == ("ICM", None, None)
    assert exp.labels.tolist() == own.truth[:, 0].tolist()
    kept = [i for i in range(12) if i not in (2, 5)]
    assert icm.rows.tolist() == kept
    assert icm.labels.tolist() == own.truth[kept, 1].tolist()
    assert icm.probabilities == pytest.approx(own.probabilities["ICM"][kept])
    assert icm.folds.tolist() == [1] * 4 + [2] * 6
    # Two images of nobody and five patients of two images.
    assert sorted(np.bincount(exp.groups).tolist()) == [1, 1, 2, 2, 2, 2, 2]
    assert exp.called.tolist() == own.called("EXP").tolist()
    assert icm.called.tolist() == own.called("ICM")[kept].tolist()


def test_data_that_lack_a_class_keep_the_networks_order():
    crops = LabelledCrops(
        images=np.zeros((3, 4, 4, 3), np.uint8),
        targets=np.array([[0], [1], [UNLABELLED]]),
        tasks={"class": ("a", "c")},
        names=("x", "y", "z"),
        patients=(None, None, None),
        digests=("1", "2", "3"),
        groups=np.arange(3),
        facets={},
        aspects=np.ones(3, np.float32),
    )
    meta = SimpleNamespace(tasks={}, config={}, classes=("a", "b", "c"), positive="c")
    probabilities = np.eye(3, dtype=np.float32)
    (own,) = graded(crops, meta, {"class": probabilities})
    assert own.classes == ("a", "b", "c")
    assert own.labels.tolist() == [0, 2]
    assert own.rows.tolist() == [0, 1]
    assert own.probabilities.tolist() == probabilities[:2].tolist()
    assert own.threshold is None  # three classes: the most probable one is called
