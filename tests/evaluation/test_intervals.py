"""Intervals against statsmodels, scipy, hand computations and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from fertiray.errors import InputError
from fertiray.evaluation.intervals import (
    Accuracy,
    between_sd,
    newcombe,
    prevalence_interval,
    rogan_gladen,
    wilson,
)

# Sensitivity 122/125 and specificity 140/146 are close to the zona paper's 97.6% and 96.0%.
PAPER = Accuracy(122 / 125, 140 / 146, 125, 146)


def test_wilson_is_statsmodels_on_a_whole_column() -> None:
    n = np.array([1, 7, 7, 7, 50, 50, 300, 33_000])
    k = np.array([0, 0, 3, 7, 2, 49, 15, 1_617])
    found = wilson(k, n)
    low, high = proportion_confint(k, n, method="wilson")
    np.testing.assert_allclose(found.low, low, atol=1e-12)
    np.testing.assert_allclose(found.high, high, atol=1e-12)


def test_wilson_at_another_level_is_scipy() -> None:
    expected = binomtest(15, 300).proportion_ci(0.99, method="wilson")
    assert wilson(15, 300, 0.99) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_nothing_counted_is_unknown_not_zero() -> None:
    assert np.isnan(wilson(0, 0)).all()
    assert np.isnan(newcombe(0, 0, 3, 10)).all()
    assert np.isnan(prevalence_interval(0, 0, PAPER)).all()
    assert np.isnan(prevalence_interval(0, 0, Accuracy(0.9, 0.9))).all()


def test_wilson_ends_exactly_at_zero_and_one() -> None:
    assert wilson(0, 7).low == 0.0
    assert wilson(7, 7).high == 1.0


def test_newcombe_is_statsmodels() -> None:
    for counts in [(56, 70, 48, 80), (0, 30, 4, 25), (29, 30, 30, 30)]:
        expected = confint_proportions_2indep(*counts, compare="diff", method="newcomb")
        assert newcombe(*counts) == pytest.approx(expected, abs=1e-10)


def test_newcombe_is_the_published_example() -> None:
    # Newcombe 1998, Table II, method 10: 56/70 - 48/80 -> 0.0524 to 0.3339.
    assert newcombe(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_rogan_gladen_by_hand() -> None:
    # (0.10 + 0.96 - 1) / (0.976 + 0.96 - 1) = 0.06 / 0.936
    assert rogan_gladen(0.10, Accuracy(0.976, 0.96)) == pytest.approx(0.0641026, abs=1e-7)
    # Without a single binding sperm 4% is read; less than that is cut to 0.
    assert rogan_gladen([0.04, 0.01, 1.0], Accuracy(0.976, 0.96)) == pytest.approx([0, 0, 1])


def test_known_accuracy_is_the_epir_manuals_example() -> None:
    # epiR, epi.prev: 23 of 150 positive, se 0.96, sp 0.89 -> 5.1 per 100 (0 to 13).
    accuracy = Accuracy(0.96, 0.89)
    found = prevalence_interval(23, 150, accuracy)
    assert rogan_gladen(23 / 150, accuracy) == pytest.approx(0.051, abs=5e-4)
    assert found == pytest.approx((0.0, 0.13), abs=5e-3)


def test_lang_reiczigel_by_hand() -> None:
    """Every step of the 2014 paper's section 2.2 in plain arithmetic, for 90 of 1000."""
    z = 1.959963984540054
    se, sp = 123 / 127, 141 / 148  # (122 + 1) / (125 + 2), (140 + 1) / (146 + 2)
    size = 1000 + z * z
    apparent = (90 + z * z / 2) / size
    youden = se + sp - 1
    prevalence = (apparent + sp - 1) / youden
    shift = 2 * z * z * (prevalence * se * (1 - se) / 127 - (1 - prevalence) * sp * (1 - sp) / 148)
    error = (
        math.sqrt(
            apparent * (1 - apparent) / size
            + prevalence**2 * se * (1 - se) / 127
            + (1 - prevalence) ** 2 * sp * (1 - sp) / 148
        )
        / youden
    )
    expected = (prevalence + shift - z * error, prevalence + shift + z * error)
    assert prevalence_interval(90, 1000, PAPER) == pytest.approx(expected, rel=1e-12)
    assert 0.0 < expected[0] < 0.049 < expected[1]


def test_truncation_is_a_choice() -> None:
    # 1 of 1000 positive where the classifier's false positives alone would give about 41.
    sharp = Accuracy(0.976, 0.96, 1250, 1460)
    free = prevalence_interval(1, 1000, sharp, truncate=False)
    assert free.high < 0
    assert prevalence_interval(1, 1000, sharp) == (0.0, 0.0)


def test_a_handful_of_validation_crops_says_nothing() -> None:
    # Sensitivity 1 of 1 becomes (1 + 1) / (1 + 2) = 0.67, specificity stays 0.0001: sum below 1.
    found = prevalence_interval([5, 0], [10, 0], Accuracy(1.0, 0.0001, 1, 1_000_000))
    assert found.low[0] == 0.0
    assert found.high[0] == 1.0
    assert np.isnan([found.low[1], found.high[1]]).all()


@pytest.mark.parametrize("pair", [(0.5, 0.5), (0.3, 0.6), (0.0, 1.0)])
def test_no_better_than_chance_is_refused(pair: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="no better than chance; train it further"):
        Accuracy(*pair)


@pytest.mark.parametrize("pair", [(1.2, 0.9), (0.9, -0.1), (float("nan"), 0.9)])
def test_shares_outside_zero_to_one_are_refused(pair: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="must lie between 0 and 1"):
        Accuracy(*pair)


@given(
    n=st.integers(1, 40_000),
    share=st.floats(0, 1),
    sensitivity=st.floats(0.6, 1),
    specificity=st.floats(0.6, 1),
    n_positive=st.integers(10, 5_000),
    n_negative=st.integers(10, 5_000),
)
def test_the_interval_is_ordered_and_holds_the_estimate(
    n: int, share: float, sensitivity: float, specificity: float, n_positive: int, n_negative: int
) -> None:
    k = round(share * n)
    # Whole validation counts, as they are measured.
    hits, passes = round(sensitivity * n_positive), round(specificity * n_negative)
    accuracy = Accuracy(hits / n_positive, passes / n_negative, n_positive, n_negative)
    low, high = prevalence_interval(k, n, accuracy)
    assert 0.0 <= low <= high <= 1.0
    assert low - 1e-9 <= rogan_gladen(k / n, accuracy) <= high + 1e-9


def covered(
    prevalence: float, n: int, accuracy: tuple[float, float], sizes: tuple[int, int], known: bool
) -> float:
    """Share of 2,000 seeded studies (validation and patient drawn) whose CI holds the truth."""
    rng, repeats = np.random.default_rng(1978), 2_000
    (se, sp), (n_positive, n_negative) = accuracy, sizes
    positive = rng.binomial(n, prevalence * se + (1 - prevalence) * (1 - sp), repeats)
    hits = rng.binomial(n_positive, se, repeats) / n_positive
    passes = rng.binomial(n_negative, sp, repeats) / n_negative
    counts = (None, None) if known else sizes
    inside = 0
    for k, hit, passed in zip(positive, hits, passes, strict=True):
        low, high = prevalence_interval(k, n, Accuracy(hit, passed, *counts))
        inside += bool(low <= prevalence <= high)
    return inside / repeats


@pytest.mark.parametrize("prevalence", [0.0, 0.01, 0.049, 0.15, 0.4])
@pytest.mark.parametrize("n", [200, 3_000])
def test_95_percent_means_95_percent(prevalence: float, n: int) -> None:
    """With the paper's accuracy and validation size; 0.94 is 2 Monte Carlo errors below 0.95."""
    share = covered(prevalence, n, (0.976, 0.96), (125, 146), known=False)
    assert 0.94 <= share <= 0.99


def test_taking_the_accuracy_as_known_would_not() -> None:
    """Why the validation counts matter: with 3,000 crops the naive 95% interval is right in 45%."""
    assert covered(0.049, 3_000, (0.976, 0.96), (125, 146), known=True) < 0.6


def test_spread_between_groups_is_the_moment_estimator():
    # By hand: 4 groups of 10 with 10, 10, 6, 6 correct: p = 0.8, sum n (p_i - p)^2 = 4 * 10 * 0.04
    # = 1.6; minus 3 * 0.16 = 0.48 gives 1.12; over 40 - 400 / 40 = 30: sqrt(0.0373333).
    correct = [1] * 20 + ([1] * 6 + [0] * 4) * 2
    groups = np.repeat(["a", "b", "c", "d"], 10)
    assert between_sd(correct, groups) == pytest.approx(0.0373333333**0.5)


def test_spread_is_found_where_it_is_and_not_where_it_is_not():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(4000), 60)
    same = rng.random(len(groups)) < 0.95
    own = rng.beta(0.95 * 94, 0.05 * 94, 4000)  # sd = sqrt(.95 * .05 / 95) = 0.02236
    differing = rng.random(len(groups)) < own[groups]
    assert between_sd(same, groups) < 0.006
    assert between_sd(differing, groups) == pytest.approx(0.02236, rel=0.08)


def test_spread_of_one_group_or_of_single_items_is_unknown():
    assert between_sd([1, 0, 1], ["a", "a", "a"]) == 0.0
    assert between_sd([1, 0, 1], ["a", "b", "c"]) == 0.0


def test_coverage_when_patients_differ():
    """800 seeded studies whose patients differ: near 95% with the spread, far less without it."""
    rng = np.random.default_rng(7)
    studies, patients, heads, truth, sd = 800, 30, 60, 0.10, 0.022
    shape = 0.95 * 0.05 / sd**2 - 1
    groups = np.repeat(np.arange(patients), heads)

    def draw(*size):
        return rng.beta(0.95 * shape, 0.05 * shape, size)

    covered = {True: 0, False: 0}
    for _ in range(studies):
        found = rng.random((2, patients * heads)) < np.repeat(draw(2, patients), heads, axis=1)
        sensitivity, specificity = found.mean(1)
        spread = (between_sd(found[0], groups), between_sd(found[1], groups), patients)
        own_se, own_sp = draw(2)
        called = rng.binomial(600, truth * own_se + (1 - truth) * (1 - own_sp))
        for known in covered:
            counts = (patients * heads, patients * heads)
            more = spread if known else ()
            accuracy = Accuracy(sensitivity, specificity, *counts, *more)
            low, high = prevalence_interval(called, 600, accuracy)
            covered[known] += bool(low <= truth <= high)
    # An independent run of this simulation gave 0.934 and 0.761.
    assert covered[True] / studies > 0.92
    assert covered[False] / studies < 0.80
