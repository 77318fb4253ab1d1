"""Grids in one process: each trial once, failures marked, and sums that scipy agrees with."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from fertiray import config, storage
from fertiray.cli import main
from fertiray.errors import InputError
from fertiray.evaluation.metrics import corrected_t
from fertiray.papers import PAPERS
from fertiray.training.crossval import crossval
from fertiray.tuning.config_file import read_config
from fertiray.tuning.grid import run_grid
from fertiray.tuning.trials import Here
from fertiray.tuning.views import Views

from .conftest import QUICK


def study(paper, name, data, out, **options):
    options.setdefault("folds", 2)
    return run_grid(
        paper, name, data, str(out), lambda: nullcontext(Here()), settings=QUICK, **options
    )


def written(out: Path) -> dict[str, int]:
    """When each finished fold was written."""
    return {str(place): place.stat().st_mtime_ns for place in out.glob("cells/*/fold-*.json")}


@pytest.fixture(scope="module")
def rates(paper, heads, tmp_path_factory):
    """A grid of two cells over three folds, with held-out heads; and its folder."""
    out = tmp_path_factory.mktemp("studies")
    return study(paper, "rates", heads, out, folds=3, held_out=heads), out


def test_the_sums_are_those_of_crossval_and_scipy(rates, paper, heads):
    values, _ = rates
    assert [cell["cell"] for cell in values["cells"]] == ["slow", "fast"]
    assert (values["ran"], values["kept"], values["failed"]) == (6, 0, 0)
    for cell, lr in zip(values["cells"], ("0.001", "0.01"), strict=True):
        recipe = cell_recipe(paper, lr)
        whole = crossval(PAPERS["zona_vgg13"], recipe, heads, folds=3)
        part = cell["tasks"]["class"]
        for metric in ("accuracy", "macro_f1", "roc_auc"):
            folds = [fold["metrics"][metric] for fold in whole["folds"]]
            assert part["metrics"][metric]["mean"] == pytest.approx(np.mean(folds))
            interval = stats.ttest_1samp(folds, 0).confidence_interval(0.95)
            assert part["metrics"][metric]["ci95"] == pytest.approx([*interval])
        assert part["pooled"]["accuracy"] == whole["pooled"]["accuracy"]


def cell_recipe(paper, lr):
    return config.override(paper.config("basic_cnn"), [*QUICK, f"lr={lr}"])


def test_the_difference_is_the_corrected_test_of_the_folds(rates):
    slow, fast = rates[0]["cells"]
    assert slow["tasks"]["class"]["against_first"] is None
    found = fast["tasks"]["class"]["against_first"]["accuracy"]
    rows = [row for row in rates[0]["trials"] if row["cell"] == "fast"]
    others = [row for row in rates[0]["trials"] if row["cell"] == "slow"]
    differences = [a["accuracy"] - b["accuracy"] for a, b in zip(rows, others, strict=True)]
    assert found["differences"] == pytest.approx(differences)
    expected = corrected_t(differences, 1 / 3)["corrected"]["p"]
    assert found["corrected"]["p"] == pytest.approx(expected)
    assert found["corrected"]["p_holm"] == pytest.approx(expected)  # one comparison


def test_held_out_negatives_are_counted(rates):
    """The held-out heads are the training's own: called bound as often as the networks say."""
    values, _ = rates
    assert values["protocol"]["held_out_seen"] == 30
    for cell in values["cells"]:
        rows = [row for row in values["trials"] if row["cell"] == cell["cell"]]
        shares = [row["unbound_called_bound"] for row in rows]
        assert all(round(share * 30) == pytest.approx(share * 30) for share in shares)  # 30 heads
        assert cell["looks"]["unbound_called_bound"]["mean"] == pytest.approx(np.mean(shares))
        # Whoever calls all heads alike has a specificity of 0 or 1, on test folds too.
        assert all(
            row["specificity"] == 1 - share
            for row, share in zip(rows, shares, strict=True)
            if share in (0, 1)
        )


def test_the_same_call_runs_nothing_again(rates, paper, heads):
    first, out = rates
    before = written(out)
    again = study(paper, "rates", heads, out, folds=3, held_out=heads)
    assert (again["ran"], again["kept"]) == (0, 6)
    assert again["trials_per_hour"] is None
    assert written(out) == before
    assert again["table"] == first["table"]
    assert [row["kept"] for row in again["trials"]] == [True] * 6


def test_other_folds_or_held_out_heads_are_other_trials(rates, paper, heads, tmp_path):
    out = Path(shutil.copytree(rates[1], tmp_path / "copy"))
    before = written(out)
    without = study(paper, "other", heads, out, folds=3)
    assert without["ran"] == 6
    assert before.items() < written(out).items()


def test_a_cell_that_two_grids_share_is_trained_once(rates, paper, heads):
    _, out = rates
    other = study(paper, "other", heads, out, folds=3, held_out=heads)
    assert (other["ran"], other["kept"]) == (3, 3)
    first = [row for row in rates[0]["trials"] if row["cell"] == "fast"]
    shared = [row for row in other["trials"] if row["cell"] == "the same"]
    assert [row["accuracy"] for row in shared] == [row["accuracy"] for row in first]


def test_files(rates):
    values, out = rates
    table = pl.read_parquet(out / "rates" / "trials.parquet")
    assert table.height == 6
    assert table["lr"].to_list() == [0.001] * 3 + [0.01] * 3
    assert table["loss.kind"].to_list() == ["cross_entropy"] * 6
    text = (out / "rates" / "table.md").read_text()
    assert "| slow | 3 |" in text
    assert "81.3%, unbound called bound 68.4%" in text  # the paper's
    names = {place.name for place in (out / "rates" / "figures").iterdir()}
    assert {"ablation-accuracy.svg", "sweep.png", "curves.svg"} <= names
    assert all(Path(place).is_file() for place in values["files"])
    assert json.loads((out / "rates" / "study.json").read_text())["table"] == text


def test_what_cells_cost(rates):
    for cell in rates[0]["cells"]:
        # By hand: 1 x 32 x 25 + 32, 32 x 64 x 25 + 64, and 64 x 2 + 2 at 16 pixels.
        assert cell["efficiency"]["params"] == 832 + 51264 + 130
        assert cell["efficiency"]["latency_ms"]["median"] > 0
        assert cell["efficiency"]["peak_mb"] is None


def test_the_best_cell_is_a_file_that_train_takes(rates, heads, tmp_path):
    best = rates[0]["best"]
    means = {c["cell"]: c["tasks"]["class"]["metrics"]["accuracy"] for c in rates[0]["cells"]}
    assert best["mean"] == max(own["mean"] for own in means.values())
    recipe = read_config(best["config"])
    assert recipe.lr == {"slow": 0.001, "fast": 0.01}[best["cell"]]
    command = ["train", "zona_vgg13", "--data", heads, "--out", str(tmp_path / "c"), "--json"]
    with pytest.raises(SystemExit) as left:
        main([*command, "--config", best["config"]])
    assert left.value.code == 0
    meta = json.loads((tmp_path / "c" / "meta.json").read_text())
    assert meta["config"]["lr"] == recipe.lr
    assert meta["config"]["epochs"] == 2


def test_failures_are_marked_and_the_study_goes_on(paper, heads, tmp_path):
    said: list[str] = []
    values = study(paper, "broken", heads, tmp_path, notice=said.append)
    assert (values["ran"], values["failed"]) == (2, 6)
    status = {row["cell"]: row["status"] for row in values["trials"]}
    assert status == {
        "sound": "finished", "diverges": "failed", "wrong": "failed", "crashes": "failed",
    }  # fmt: skip
    errors = {row["cell"]: row["error"] for row in values["trials"]}
    assert "the loss is not a finite number" in errors["diverges"]
    assert "unexpected keyword argument 'depth'" in errors["wrong"]
    assert errors["crashes"].startswith("ValueError: Expected more than 1 value per channel")
    assert not any(error and "\n" in error for error in errors.values())
    assert values["best"]["cell"] == "sound"
    assert "- wrong: fold 1: " in values["table"]
    assert "0 of 2" in values["table"]
    assert sum("failed" in line for line in said) == 6
    again = study(paper, "broken", heads, tmp_path)
    assert (again["ran"], again["kept"], again["failed"]) == (0, 2, 6)


def test_repeats_are_other_folds_and_seeds(paper, heads, tmp_path):
    values = study(paper, "other", heads, tmp_path, repeats=2)
    rows = [row for row in values["trials"] if row["cell"] == "smoothed"]
    assert [(row["repeat"], row["fold"]) for row in rows] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert len({row["address"] for row in rows}) == 2
    part = values["cells"][1]["tasks"]["class"]
    assert part["metrics"]["accuracy"]["n"] == 4
    assert len(part["against_first"]["accuracy"]["differences"]) == 4


def test_on_s3(paper, heads, s3):
    values = study(paper, "other", heads, f"{s3}/studies")
    assert (values["ran"], values["failed"]) == (4, 0)
    assert storage.exists(f"{s3}/studies/other/study.json")
    assert study(paper, "other", heads, f"{s3}/studies")["kept"] == 4
    assert read_config(values["best"]["config"]).epochs == 2


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("none", {}, "--grid none: zona_vgg13 has no such grid; choose one of: rates, other"),
        ("rates", {"folds": 1}, "--folds 1"),
        ("rates", {"held_out": "/nowhere"}, "/nowhere"),
    ],
)
def test_refused_before_anything_runs(paper, heads, tmp_path, name, options, message):
    with pytest.raises(InputError, match=message):
        study(paper, name, heads, tmp_path, **options)
    assert not [*tmp_path.iterdir()]


def test_recipes_that_look_alike_share_a_view(paper, heads):
    views = Views(paper, heads, None, aspects=False)
    recipe = cell_recipe(paper, "0.01")
    assert views(recipe) is views(cell_recipe(paper, "0.02"))
    larger = replace(recipe, preprocessing=replace(recipe.preprocessing, size=32))
    assert views(larger).crops.images.shape[1] == 32
    assert views(larger).crops.digest == views(recipe).crops.digest
