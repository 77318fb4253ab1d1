"""Figures of studies hold what they are given."""

import numpy as np
import pytest

from fertiray.evaluation.figures.look import save
from fertiray.evaluation.figures.study import (
    learning_curves,
    parallel_coordinates,
    setting_sweep,
)


def texts(figure) -> set[str]:
    return {text.get_text() for axes in figure.axes for text in axes.texts}


def test_a_sweep_over_decades_is_logarithmic_and_one_over_whole_numbers_is_not():
    rates = [{"x": 10.0**-n, "accuracy": 0.9, "accuracy_ci": [0.8, 1.0]} for n in (1, 2, 3, 4)]
    (axes,) = setting_sweep(rates, {"accuracy": "accuracy"}, "lr").axes
    assert axes.get_xscale() == "log"
    points = [
        {"x": n, "accuracy": None if n == 2 else 0.9, "latency_ms": 5.0 + n, "accuracy_paper": 0.8}
        for n in range(7)
    ]
    panels = {"accuracy": "accuracy", "latency_ms": "latency, ms"}
    figure = setting_sweep(points, panels, "n")
    first, second = figure.axes
    assert first.get_xscale() == "linear"
    y = first.lines[0].get_ydata()
    assert np.isnan(y[2])
    assert np.isfinite(y[3])
    assert second.lines[0].get_ydata().tolist() == [5.0 + n for n in range(7)]
    assert first.get_legend() is not None


def test_curves_go_as_far_as_the_shortest_training():
    long = [{"epoch": e, "training_loss": 1.0 / e} for e in (1, 2, 3)]
    short = [{"epoch": 1, "training_loss": 3.0}]
    figure = learning_curves({"a": [long, short], "b": [long]}, {"training_loss": "loss"})
    (axes,) = figure.axes
    a, b = axes.lines
    assert a.get_ydata().tolist() == [2.0]  # the mean of 1 and 3
    assert len(b.get_ydata()) == 3


@pytest.mark.parametrize("low_is_good", [True, False])
def test_the_best_trial_is_drawn_last_and_thick(low_is_good):
    trials = [
        {"lr": 10.0**-n, "pool": "max" if n % 2 else "mean", "flag": bool(n % 2), "value": value}
        for n, value in enumerate((0.4, 0.2, None, 0.9, float("inf")), 1)
    ]
    figure = parallel_coordinates(trials, ["lr", "pool", "flag"], "loss", low_is_good=low_is_good)
    axes = figure.axes[0]
    drawn = [line for line in axes.lines if len(line.get_ydata()) > 2]
    assert len(drawn) == 5
    assert [line.get_linewidth() for line in drawn] == [0.7] * 4 + [2.0]
    assert drawn[-1].get_ydata()[-1] == (0.0 if low_is_good else 1.0)
    assert {"mean", "max", "True", "False"} <= texts(figure)


def test_one_trial_and_none_that_came_to_anything(tmp_path):
    one = [{"lr": 0.1, "value": 0.5}]
    save(parallel_coordinates(one, ["lr"], "loss", low_is_good=True), str(tmp_path), "one")
    none = [{"lr": 0.1, "value": None}]
    save(parallel_coordinates(none, ["lr"], "loss", low_is_good=True), str(tmp_path), "none")
    assert len([*tmp_path.iterdir()]) == 4
