"""Cohort plots: every patient is drawn, and the numbers are those of the statistics modules."""

import numpy as np
import pytest

from fertiray.errors import InputError
from fertiray.evaluation.figures.cohort import cohort_roc_figure, groups_figure, rate_figure
from fertiray.evaluation.groups import compare_groups
from fertiray.evaluation.roc import at_threshold, youden

GROUPS = {"low": [0.01, 0.02, 0.03, 0.05], "middle": [0.1, 0.2, 0.15], "high": [0.2, 0.3, 0.25]}


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_groups_with_every_patient_the_threshold_and_the_pairs():
    pairs = compare_groups(GROUPS)["pairs"]
    (axes,) = groups_figure(GROUPS, pairs, 0.049).axes
    points = [line for line in axes.get_lines() if line.get_marker() == "o"]
    assert [line.get_ydata().tolist() for line in points] == list(GROUPS.values())
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    assert ticks == ["low\nn = 4", "middle\nn = 3", "high\nn = 3"]
    assert texts(axes)[0] == "4.9%"
    assert sum(text.startswith("p ") for text in texts(axes)) == len(pairs) == 3
    brackets = [line for line in axes.get_lines()[-3:] if line.get_marker() == "None"]
    tops = [line.get_ydata()[1] for line in brackets]
    assert len(set(tops)) == 3
    assert min(tops) > 0.3
    assert max(tops) < axes.get_ylim()[1]
    assert brackets[-1].get_xdata().tolist() == [0, 0, 2, 2]  # the longest is on top


def test_patients_without_a_value_and_pairs_without_a_p_are_left_out():
    groups = {"low": [0.1, np.nan], "high": [np.nan]}
    pairs = [{"a": "low", "b": "high", "p_holm": None}]
    (axes,) = groups_figure(groups, pairs).axes
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    assert ticks == ["low\nn = 1", "high\nn = 0"]
    assert texts(axes) == []


def test_the_curve_with_youdens_point_and_the_stated_threshold():
    values = np.array([*GROUPS["low"], *GROUPS["high"], np.nan])
    positive = np.array([False] * 4 + [True] * 4)
    figure = cohort_roc_figure(values, positive, 0.015)
    (axes,) = figure.axes
    best = youden(values[:-1], positive[:-1])
    stated = at_threshold(values[:-1], positive[:-1], 0.015)
    marks = [line.get_xydata()[0] for line in axes.get_lines()[2:]]
    for mark, point in zip(marks, (best, stated), strict=True):
        assert mark.tolist() == [1 - point["specificity"]["share"], point["sensitivity"]["share"]]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[0].startswith("AUC 1.000 (")
    assert f"above {best['threshold']:.1%}" in legend[1]
    assert legend[2] == (
        "stated: above 1.5%\nsensitivity 100.0% (3/3), specificity 25.0% (1/4)"  # by hand
    )
    assert figure.legends[0].get_title().get_text() == ("3 patients with the outcome, 4 without")


def test_one_outcome_alone_has_no_curve():
    with pytest.raises(InputError, match="a ROC curve needs both"):
        cohort_roc_figure([0.1, 0.2, np.nan], [True, True, False])


def test_the_share_against_the_rate_with_spearmans_correlation():
    values, rates = [0.01, 0.2, np.nan, 0.3], [0.1, 0.5, 0.7, 0.9]
    figure = rate_figure(values, rates, 0.049, groups=["low", "middle", "high", "high"])
    (axes,) = figure.axes
    # Three patients in order: rho 1, no interval (Fisher's z needs four).
    assert axes.get_title().startswith("Spearman's ρ 1.00, p ")
    assert axes.get_title().endswith("n = 3")
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["low (n = 1)", "middle (n = 1)", "high (n = 1)"]
    high = axes.get_lines()[2]
    assert high.get_xydata().tolist() == [[0.9, 0.3]]


def test_values_that_do_not_vary_have_no_correlation():
    assert rate_figure([0.1, 0.1, 0.1], [0.1, 0.5, 0.9]).axes[0].get_title() == ""
