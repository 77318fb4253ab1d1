"""Training curves: what is drawn is what the epoch lines hold."""

import numpy as np
import pytest

from fertiray.evaluation.figures.curves import training_curves


def history(epochs: int, shift: float = 0.0, validation: bool = True) -> list[dict[str, float]]:
    lines = []
    for epoch in range(1, epochs + 1):
        line = {"epoch": epoch, "lr": 0.1 / epoch, "training_loss": 1 / epoch + shift}
        if validation:
            line |= {"validation_loss": 2 / epoch + shift, "validation_accuracy": 1 - 0.5 / epoch}
        lines.append(line)
    return lines


def curves(axes) -> dict[str, np.ndarray]:
    return {line.get_label(): np.array(line.get_data()).T for line in axes.get_lines()}


def test_one_training():
    loss, metric, rate = training_curves([history(4)], [3]).axes
    drawn = curves(loss)
    assert drawn["training"].tolist() == [[1, 1], [2, 1 / 2], [3, 1 / 3], [4, 1 / 4]]
    assert drawn["validation"][:, 1].tolist() == [2, 1, 2 / 3, 1 / 2]
    assert drawn["epoch kept (3)"].tolist() == [[3, 2 / 3]]
    assert curves(metric)["accuracy"][:, 1].tolist() == [0.5, 0.75, 1 - 0.5 / 3, 0.875]
    assert rate.get_lines()[0].get_ydata().tolist() == [0.1, 0.05, 0.1 / 3, 0.025]
    assert [axes.get_ylabel() for axes in (loss, metric, rate)] == [
        "loss",
        "validation metric",
        "learning rate",
    ]


def test_several_trainings_are_thin_and_their_mean_ends_with_the_shortest():
    loss = training_curves([history(5), history(3, shift=0.5)], [5, 2]).axes[0]
    drawn = curves(loss)
    mean = drawn["training, mean of 2"]
    assert mean[:, 0].tolist() == [1, 2, 3]
    assert mean[:, 1] == pytest.approx([1.25, 0.75, 1 / 3 + 0.25])
    thin = [line for line in loss.get_lines() if line.get_linewidth() == 0.5]
    assert sorted(len(line.get_xdata()) for line in thin) == [3, 3, 5, 5]
    assert drawn["epoch kept"].tolist() == [[5, 2 / 5], [2, 2 / 2 + 0.5]]


def test_without_a_validation_part_there_is_no_metric_and_the_training_loss_is_marked():
    figure = training_curves([history(3, validation=False)], [3])
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "learning rate"]
    assert curves(figure.axes[0])["epoch kept (3)"].tolist() == [[3, 1 / 3]]


def test_what_a_line_lacks_or_is_not_a_number_leaves_a_gap():
    lines = history(3)
    del lines[1]["validation_loss"]
    lines[2]["training_loss"] = float("nan")
    drawn = curves(training_curves([lines], [2]).axes[0])
    assert np.isnan(drawn["validation"][:, 1]).tolist() == [False, True, False]
    assert np.isnan(drawn["training"][:, 1]).tolist() == [False, False, True]
    assert np.isnan(drawn["epoch kept (2)"]).tolist() == [[False, True]]


def test_a_training_of_one_epoch_is_a_point():
    loss = training_curves([history(1)]).axes[0]
    assert {line.get_marker() for line in loss.get_lines()} == {"."}
