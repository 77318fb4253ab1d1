"""Reliability diagrams: what is printed is what the calibration module computes."""

import numpy as np
import pytest

from fertiray.evaluation.calibration import expected_calibration_error, temper
from fertiray.evaluation.figures.calibration import equal_mass, reliability_figure


def two_classes(confidence: list[float], right: list[int]) -> tuple[np.ndarray, np.ndarray]:
    sure = np.array(confidence)
    return np.stack([sure, 1 - sure], 1), 1 - np.array(right)


def test_equal_mass_by_hand():
    # Sorted 0.6 0.7 | 0.8 0.9, one of each pair right: |.5 - .65|, |.5 - .85|, each with half.
    found = equal_mass(*two_classes([0.9, 0.6, 0.8, 0.7], [1, 1, 0, 0]), 2)
    assert found["ece"] == pytest.approx((0.15 + 0.35) / 2)
    assert [row["n"] for row in found["bins"]] == [2, 2]
    assert [row["confidence"] for row in found["bins"]] == pytest.approx([0.65, 0.85])
    assert [row["accuracy"] for row in found["bins"]] == [0.5, 0.5]


def test_fewer_images_than_bins_are_a_bin_each():
    found = equal_mass(*two_classes([0.9, 0.6], [1, 0]), 15)
    assert [row["n"] for row in found["bins"]] == [1, 1]
    assert found["ece"] == pytest.approx((0.1 + 0.6) / 2)


def test_the_diagram_shows_both_errors_and_all_images():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1, 1, 1], 90)
    labels = rng.integers(0, 3, 90)
    cold = temper(probabilities, 0.5)
    figure = reliability_figure({"before": probabilities, "after": cold}, labels)
    before, after, counts, _ = figure.axes
    for axes, own, title in ((before, probabilities, "before"), (after, cold, "after")):
        width, mass = (text.get_text() for text in axes.get_legend().get_texts())
        assert width.endswith(f"ECE {expected_calibration_error(own, labels):.3f}")
        assert mass.endswith(f"ECE {equal_mass(own, labels)['ece']:.3f}")
        assert axes.get_legend().get_title().get_text() == title
    assert sum(bar.get_height() for bar in counts.patches) == 90
    assert len(counts.patches) == 15


def test_a_single_image():
    upper, lower = reliability_figure({"": [[0.2, 0.8]]}, [1]).axes
    assert upper.collections[-1].get_offsets().tolist() == [[0.8, 1.0]]
    assert sum(bar.get_height() for bar in lower.patches) == 1
