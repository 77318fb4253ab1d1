"""Groups against scipy, statsmodels and hand computations."""

import json

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.weightstats import CompareMeans

from fertiray.errors import InputError
from fertiray.evaluation.groups import compare, compare_groups, correlate, describe, holm, share

# About normal, about normal with another spread, far from normal.
A = [12.1, 14.3, 9.8, 11.0, 13.2, 10.7, 12.9, 11.6]
B = [15.0, 19.2, 11.4, 17.3, 21.8, 13.6, 16.1]
SKEWED = [0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 9.0, 30.0]


def test_description_by_hand():
    found = describe([1, 2, 4, 5])
    assert (found["n"], found["mean"], found["median"]) == (4, 3, 3)
    assert found["sd"] == pytest.approx((10 / 3) ** 0.5)
    assert found["sem"] == pytest.approx((10 / 3) ** 0.5 / 2)
    assert (found["q1"], found["q3"], found["min"], found["max"]) == (1.75, 4.25, 1, 5)
    assert describe(SKEWED)["shapiro_p"] == stats.shapiro(SKEWED).pvalue
    assert describe(SKEWED)["normal"] is False
    assert describe(A)["normal"] is True


def test_small_and_constant_groups():
    one = describe([0.3])
    assert (one["n"], one["mean"], one["q1"]) == (1, 0.3, 0.3)
    assert one["sd"] is one["sem"] is one["normal"] is None
    assert describe([1, 2])["normal"] is None
    same = describe([0.2] * 6)
    assert same["sem"] == pytest.approx(0, abs=1e-12)
    assert same["shapiro_p"] is same["normal"] is None


def test_normal_groups_take_students_t():
    found = compare(A, B)
    assert (found["test"], found["p"]) == ("Student's t", found["student"]["p"])
    means = CompareMeans.from_data(A, B)
    for name, kind in (("student", "pooled"), ("welch", "unequal")):
        t, p, df = means.ttest_ind(usevar=kind)
        assert (found[name]["t"], found[name]["p"], found[name]["df"]) == pytest.approx((t, p, df))
        assert found[name]["ci"] == pytest.approx(means.tconfint_diff(usevar=kind))
    assert found["difference"] == pytest.approx(np.mean(A) - np.mean(B))
    assert found["student"]["df"] == 13


def test_other_groups_take_ranks():
    found = compare(A, SKEWED)
    assert (found["test"], found["p"]) == ("Mann-Whitney", found["mann_whitney"]["p"])
    assert found["p"] == stats.mannwhitneyu(A, SKEWED).pvalue
    # By hand: 7 of the 8 skewed values are beaten by all of A, 30 by none, 9 by all: u = 8 * 7.
    assert found["mann_whitney"]["u"] == 56


def test_groups_too_small_or_constant_for_t():
    found = compare([0.1], [0.2, 0.3, 0.4])
    assert found["test"] == "Mann-Whitney"
    assert found["student"]["p"] is found["welch"]["ci"] is None
    # By hand: of 4 ways to place the one value 2 are as extreme.
    assert found["p"] == 0.5
    constant = compare([1, 1, 1], [1, 1])
    assert constant["student"]["t"] is None
    assert constant["p"] == 1
    json.dumps([found, constant], allow_nan=False)


def test_all_pairs_and_holm_by_hand():
    found = compare_groups({"a": A, "b": B, "skewed": SKEWED})
    assert [(pair["a"], pair["b"]) for pair in found["pairs"]] == [
        ("a", "b"),
        ("a", "skewed"),
        ("b", "skewed"),
    ]
    assert found["groups"]["b"] == describe(B)
    p = [pair["p"] for pair in found["pairs"]]
    # The smallest three times, the next twice, the last once, none smaller than the one before.
    smallest, middle, largest = sorted(p)
    steps = np.maximum.accumulate([3 * smallest, 2 * middle, largest])
    expected = dict(zip(sorted(p), steps, strict=True))
    assert [pair["p_holm"] for pair in found["pairs"]] == pytest.approx([expected[x] for x in p])
    assert holm([0.01, None, 0.04]) == [0.02, None, 0.04]
    assert holm([None]) == [None]
    assert holm([]) == []


def test_correlations():
    rng = np.random.default_rng(0)
    x = rng.normal(size=30)
    y = (x + rng.normal(size=30)).round(1)
    found = correlate(x, y)
    pearson = stats.pearsonr(x, y)
    interval = pearson.confidence_interval()
    assert found["pearson"]["r"] == pytest.approx(pearson.statistic)
    assert found["pearson"]["p"] == pytest.approx(pearson.pvalue)
    assert found["pearson"]["ci"] == pytest.approx([interval.low, interval.high])
    r = stats.spearmanr(x, y).statistic
    # Bonett and Wright by hand.
    z = np.arctanh(r) + np.array([-1, 1]) * 1.959964 * ((1 + r**2 / 2) / 27) ** 0.5
    assert found["spearman"]["r"] == pytest.approx(r)
    assert found["spearman"]["ci"] == pytest.approx(np.tanh(z), abs=1e-6)


def test_correlations_that_cannot_be_had():
    none = {"r": None, "ci": None, "p": None}
    assert correlate([1, 2], [3, 4])["pearson"] == none
    assert correlate([1, 2, 3], [4, 4, 4])["spearman"] == none
    line = correlate([1, 2, 3, 4, 5], [2, 4, 6, 8, 11])["spearman"]
    assert line["r"] == pytest.approx(1)
    assert line["ci"] is None
    assert correlate([1, 2, 3], [1, 3, 2])["pearson"]["ci"] is None


def test_shares():
    found = share(3, 4)
    # Wilson by hand, z^2 = 3.8415: (3 + 1.9207 -+ 1.96 sqrt(0.75 + 0.9604)) / 7.8415.
    assert found["ci"] == pytest.approx([0.3006, 0.9544], abs=1e-4)
    assert share(0, 0) == {"hits": 0, "n": 0, "share": None, "ci": None}


def test_missing_values_are_refused():
    for values in ([], [1, np.nan], [1, np.inf]):
        with pytest.raises(InputError, match="leave out patients without a value"):
            describe(values)
    with pytest.raises(InputError, match="1 of them"):
        correlate([1, 2, 3, 4], [1, 2, np.nan, 4])
