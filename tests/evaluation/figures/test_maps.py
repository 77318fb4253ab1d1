"""Grids of heatmaps and the sanity check's curve."""

import numpy as np

from fertiray.evaluation.explain.overlay import overlay
from fertiray.evaluation.figures.maps import maps_figure, sanity_figure


def test_a_row_for_each_crop_and_a_column_for_each_layer():
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    heats = {"stage1": rng.random((2, 16, 16)), "input": rng.random((2, 16, 16))}
    figure = maps_figure(crops, heats, ["a\ncalled b", "b\ncalled b"])
    axes = figure.axes[:6]
    assert [own.get_title() for own in axes] == ["crop", "stage1", "input", "", "", ""]
    assert [axes[0].get_ylabel(), axes[3].get_ylabel()] == ["a\ncalled b", "b\ncalled b"]
    assert np.array_equal(axes[3].images[0].get_array(), crops[1])
    assert np.array_equal(axes[4].images[0].get_array(), overlay(crops[1], heats["stage1"][1]))
    assert figure.get_size_inches()[0] * 25.4 <= 174


def test_the_sanity_check_by_what_is_randomised():
    row = {"layer": "last", "min": None, "max": None, "n": 3, "undefined": 0}
    rows = [
        {**row, "randomised": "head", "mean": 0.4, "sd": 0.1},
        {**row, "randomised": "block", "mean": -0.2, "sd": None},
        {**row, "layer": "flat", "randomised": "head", "mean": None, "sd": None},
    ]
    figure = sanity_figure(rows)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["head", "block"]
    last = axes.containers[0].lines[0]
    assert last.get_ydata().tolist() == [0.4, -0.2]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["last", "flat (not defined)"]
