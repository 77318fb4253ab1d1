"""Sums over trials that were made by hand: tasks, gaps, ties, and the paper's rows."""

import numpy as np
import pytest

from fertiray.papers import PAPERS
from fertiray.papers.reported import reported
from fertiray.tuning.cells import Cell, Grid
from fertiray.tuning.drawings import grid_figures
from fertiray.tuning.summary import Done, best_cell, limits, summarise, trial_rows
from fertiray.tuning.tables import grid_table, paper_text
from fertiray.tuning.trials import Trial

SCALARS = (
    *("accuracy", "macro_precision", "macro_recall", "macro_f1", "roc_auc", "average_precision"),
    *("log_loss", "sensitivity", "specificity"),
)
POOLED = {"n": 8, "sensitivity": None, "specificity": None, "confusion": [], "ci": {}}


def metrics(value):
    return dict.fromkeys(SCALARS, value)


def line(fold, values):
    """A fold with the same value for every metric, by task."""
    by_task = {task: {"metrics": metrics(value), "confusion": []} for task, value in values.items()}
    history = [{"epoch": epoch, "training_loss": 1 / epoch} for epoch in (1, 2)]
    return {
        "fold": fold,
        "n": 4,
        "epochs": [2],
        "history": [history],
        "seconds": 1.0,
        **next(iter(by_task.values())),
        **({"tasks": by_task} if len(by_task) > 1 else {}),
    }


def cell(name, folds, *, model="memebg", task=None, key=None, missing=(), right="aabb"):
    """A cell over the given folds, each {task: value}; ``right`` is called where truth is aaab."""
    recipe = PAPERS["blastocyst_memebg"].config(model)
    import dataclasses

    recipe = dataclasses.replace(recipe, task=task)
    trials = [
        Trial(name, 1, number, "blastocyst_memebg", recipe, len(folds), 42, f"cells/{name}")
        for number in range(1, len(folds) + 1)
    ]
    lines = [line(n, values) for n, values in enumerate(folds, 1) if n not in missing]
    calls = {"calls": {"truth": "aaab", "called": right}}
    tasks = {own: {"pooled": {**POOLED, **metrics(0.5)}, **calls} for own in folds[0]}
    whole = {
        "split_digest": "same",
        "folds": lines,
        "task": next(iter(tasks)),
        **next(iter(tasks.values())),
        **({"tasks": tasks} if len(tasks) > 1 else {}),
    }
    errors = [f"fold {n}: lost" for n in missing]
    results = {} if missing else {1: whole}
    return Done(Cell(name, model, (), key), recipe, trials, lines, results, errors)


@pytest.fixture
def tasks():
    """Multi-task against single-task, as Tables II to IV of the paper."""
    multi = [{"EXP": v, "ICM": v - 0.1, "TE": v - 0.2} for v in (0.7, 0.8, 0.9, 0.85)]
    single = [{"EXP": v} for v in (0.6, 0.75, 0.8, 0.8)]
    return [
        cell("multi-task", multi, key="blastocyst_memebg/test/multi", right="aaab"),
        cell("single EXP", single, model="memebg_single", task="EXP",
             key="blastocyst_memebg/test/single/EXP"),
        cell("single ICM", [{"ICM": 0.7}] * 4, model="memebg_single", task="ICM"),
    ]  # fmt: skip


def test_each_task_is_compared_with_its_own(tasks):
    multi, single, icm = summarise(tasks, 4)
    assert list(multi["tasks"]) == ["EXP", "ICM", "TE"]
    assert multi["tasks"]["TE"]["metrics"]["macro_f1"]["mean"] == pytest.approx(0.6125)
    assert multi["tasks"]["TE"]["reported"] == reported("blastocyst_memebg/test/multi/TE")
    assert single["tasks"]["EXP"]["reported"] == reported("blastocyst_memebg/test/single/EXP")
    assert icm["tasks"]["ICM"]["reported"] == {}
    found = single["tasks"]["EXP"]["against_first"]
    assert found["macro_f1"]["differences"] == pytest.approx([-0.1, -0.05, -0.1, -0.05])
    assert found["macro_f1"]["corrected"]["p"] > found["macro_f1"]["paired"]["p"]
    # aabb against aaab: the first cell alone is right once.
    assert found["mcnemar"]["only_a"] == 0
    assert found["mcnemar"]["only_b"] == 1
    assert list(icm["tasks"]) == ["ICM"]


def test_holm_over_the_cells():
    """Two p values p1 < p2: 2 p1 and max(2 p1, p2), by hand."""
    base = cell("first", [{"EXP": v} for v in (0.5, 0.6, 0.7)], model="memebg_single", task="EXP")
    near = cell("near", [{"EXP": v} for v in (0.55, 0.6, 0.71)], model="memebg_single", task="EXP")
    far = cell("far", [{"EXP": v} for v in (0.8, 0.89, 1.0)], model="memebg_single", task="EXP")
    found = [
        own["tasks"]["EXP"]["against_first"]["accuracy"]["corrected"]
        for own in summarise([base, near, far], 3)[1:]
    ]
    low, high = sorted(found, key=lambda test: test["p"])
    assert low["p_holm"] == pytest.approx(2 * low["p"])
    assert high["p_holm"] == pytest.approx(max(2 * low["p"], high["p"]))


def test_equal_folds_have_no_p(tasks):
    same = cell("same", [{"EXP": v} for v in (0.7, 0.8, 0.9, 0.85)], model="memebg_single",
                task="EXP")  # fmt: skip
    _, found = summarise([tasks[0], same], 4)
    test = found["tasks"]["EXP"]["against_first"]["accuracy"]
    assert test["mean"] == pytest.approx(0)
    assert test["corrected"] == {"t": None, "p": None}
    assert "| +0.000 |" in grid_table([found], "accuracy")


def test_a_cell_with_gaps_has_a_mean_but_no_comparison_and_is_not_the_best(tasks):
    folds = [{"EXP": 0.95}] * 4
    gap = cell("gap", folds, model="memebg_single", task="EXP", missing=(2,))
    none = cell("none", folds, model="memebg_single", task="EXP", missing=(1, 2, 3, 4))
    cells = summarise([*tasks, gap, none], 4)
    assert cells[3]["finished"] == 3
    assert cells[3]["tasks"]["EXP"]["metrics"]["accuracy"]["n"] == 3
    assert cells[3]["tasks"]["EXP"]["against_first"] is None
    assert cells[4]["tasks"] == {}
    assert best_cell(cells, "accuracy")["cell"] == "multi-task"
    table = grid_table(cells, "macro_f1")
    assert "| gap | 3 of 4 |" in table
    assert "| none | 0 of 4 | – |" in table
    assert "- gap: fold 2: lost" in table
    assert "multi-task: TE" in table


def test_the_first_cell_may_be_the_one_with_gaps(tasks):
    first = cell("gap", [{"EXP": 0.9}] * 4, model="memebg_single", task="EXP", missing=(1, 2, 3, 4))
    cells = summarise([first, *tasks], 4)
    assert all(part["against_first"] is None for own in cells for part in own["tasks"].values())
    assert best_cell(cells, "accuracy")["cell"] == "multi-task"
    assert best_cell(summarise([first], 4), "accuracy") is None


def test_rows_of_several_tasks_carry_their_names(tasks):
    lines = {trial.place: own for trial, own in zip(tasks[0].trials, tasks[0].lines, strict=True)}
    lost = tasks[1].trials[0]
    rows = trial_rows([*tasks[0].trials, lost], lines, {lost.place: "lost"}, set())
    assert rows[0]["EXP_accuracy"] == 0.7
    assert rows[0]["TE_macro_f1"] == pytest.approx(0.5)
    assert (rows[-1]["status"], rows[-1]["error"], rows[-1]["n"]) == ("failed", "lost", None)


def test_figures_of_several_tasks_and_of_nothing(tasks):
    grid = Grid("", tuple(own.cell for own in tasks))
    figures = grid_figures(grid, tasks, summarise(tasks, 4))
    assert {"ablation-EXP-accuracy", "ablation-TE-macro_f1", "curves"} <= {*figures}
    lost = cell("lost", [{"EXP": 0.9}] * 2, model="memebg_single", task="EXP", missing=(1, 2))
    assert grid_figures(grid, [lost], summarise([lost], 2)) == {}


def test_intervals_of_shares_stay_shares():
    assert limits({"ci95": [-0.2, 1.3]}) == [0.0, 1.0]
    assert limits({"ci95": None}) is None


def test_the_papers_numbers_in_words():
    assert paper_text(reported("sperm_madrnet/hushem/madrnet")) == "96.3% ± 0.3%, F1 0.968"
    assert paper_text(reported("embryo_msres/test/msres")) == "96.3%, F1 0.929, AUC 0.920"
    row = reported("zona_vgg13/test/resnet34")
    assert paper_text(row, ["unbound_called_bound"]) == "99.3%, unbound called bound 25.5%"
    assert paper_text({}) == ""


def test_numpy_has_no_part_in_the_json(tasks):
    import json

    assert json.loads(json.dumps(summarise(tasks, 4)))
    assert not any(isinstance(v, np.generic) for own in summarise(tasks, 4) for v in own.values())
