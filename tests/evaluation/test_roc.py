"""ROC curves against scikit-learn, DeLong's variance from its definition, and hand computations."""

import json

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from fertiray.errors import InputError
from fertiray.evaluation import roc
from fertiray.evaluation.intervals import wilson

# By hand: three of four positives lie above 2, three of four negatives do not.
VALUES = [1, 2, 2, 3, 2, 4, 5, 3]
POSITIVE = [False] * 4 + [True] * 4


def made_up(n: int, seed: int = 0, decimals: int = 1):
    """Two correlated values with ties and the outcome they speak of."""
    rng = np.random.default_rng(seed)
    y = rng.random(n) < 0.4
    a = y + rng.normal(size=n)
    b = 0.5 * y + 0.6 * a + rng.normal(size=n)
    return a.round(decimals), b.round(decimals), y


def placements(values, positive):
    """Each positive's share of negatives below it and each negative's of positives above it.

    The definition (DeLong et al. 1988), pair by pair, ties counting half.
    """
    x, y = np.asarray(values)[positive], np.asarray(values)[~np.asarray(positive)]
    wins = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    return wins.mean(1), wins.mean(0)


def test_points_are_scikit_learns():
    a, _, y = made_up(60)
    found = roc.roc_points(a, y)
    fpr, tpr, _ = sk.roc_curve(y, a, drop_intermediate=False)
    assert found["sensitivity"] == pytest.approx(tpr[::-1])
    assert found["specificity"] == pytest.approx(1 - fpr[::-1])
    assert found["threshold"] == [None, *np.unique(a)]
    json.dumps(found, allow_nan=False)


def test_points_by_hand():
    found = roc.roc_points(VALUES, POSITIVE)
    assert found["threshold"] == [None, 1, 2, 3, 4, 5]
    assert found["sensitivity"] == [1, 1, 0.75, 0.5, 0.25, 0]
    assert found["specificity"] == [0, 0.25, 0.75, 1, 1, 1]


def test_what_lies_on_the_threshold_is_negative():
    found = roc.at_threshold(VALUES, POSITIVE, 2)
    assert (found["sensitivity"]["hits"], found["specificity"]["hits"]) == (3, 3)
    assert found["accuracy"]["share"] == 6 / 8
    assert found["youden"] == 0.5
    assert found["sensitivity"]["ci"] == pytest.approx([float(x) for x in wilson(3, 4)])
    assert roc.at_threshold(VALUES, POSITIVE, 1.999)["specificity"]["hits"] == 1
    assert roc.at_threshold(VALUES, POSITIVE, 5)["sensitivity"]["hits"] == 0


def test_of_equal_thresholds_the_lowest_is_taken():
    """By hand: 2 and 3 both give an index of 1/2 (see the points above)."""
    found = roc.youden(VALUES, POSITIVE)
    assert found["threshold"] == 2
    assert found["youden"] == 0.5


def test_youdens_threshold_is_the_best_of_all_observed():
    for seed in range(5):
        a, _, y = made_up(50, seed)
        found = roc.youden(a, y, resamples=50)
        every = [roc.at_threshold(a, y, t)["youden"] for t in np.unique(a)]
        assert found["youden"] == pytest.approx(max(every))
        assert found["threshold"] in a


def test_the_thresholds_interval_is_that_of_drawn_patients():
    """The same bootstrap, patient by patient, with the index taken from scikit-learn's curve."""
    a, _, y = made_up(80, decimals=3)
    rng = np.random.default_rng(5)
    chosen = []
    for _ in range(1500):
        drawn = np.concatenate([rng.choice(a[part], part.sum()) for part in (y, ~y)])
        truth = np.repeat([True, False], [y.sum(), (~y).sum()])
        fpr, tpr, levels = sk.roc_curve(truth, drawn, drop_intermediate=False)
        # scikit-learn calls what reaches a level; above the next lower one is the same.
        chosen.append(levels[min(np.argmax(tpr - fpr) + 1, len(levels) - 1)])
    found = roc.youden(a, y, seed=1, resamples=1500)
    assert found["threshold_ci"] == pytest.approx(np.percentile(chosen, [2.5, 97.5]), abs=0.15)
    assert found == roc.youden(a, y, seed=1, resamples=1500)


@pytest.mark.parametrize(("n", "decimals"), [(25, 1), (60, 6), (200, 1)])
def test_delong_is_its_definition(n, decimals):
    a, _, y = made_up(n, seed=n, decimals=decimals)
    found = roc.auc(a, y)
    of_positives, of_negatives = placements(a, y)
    variance = np.var(of_positives, ddof=1) / y.sum() + np.var(of_negatives, ddof=1) / (~y).sum()
    assert found["auc"] == pytest.approx(sk.roc_auc_score(y, a))
    assert found["se"] == pytest.approx(variance**0.5)
    half = 1.959964 * variance**0.5
    low, high = found["auc"] - half, min(1, found["auc"] + half)
    assert found["ci"] == pytest.approx([low, high], abs=1e-6)
    assert found["ci_method"] == "DeLong"
    assert found["p"] == stats.mannwhitneyu(a[y], a[~y]).pvalue


def test_the_logit_interval_by_hand():
    """By hand: of 16 pairs 12 are won and 3 tied; the logit's error is se / (area (1 - area))."""
    found = roc.auc(VALUES, POSITIVE)
    assert found["auc"] == 13.5 / 16
    logit, se = np.log(13.5 / 2.5), found["se"] / (13.5 / 16 * 2.5 / 16)
    expected = 1 / (1 + np.exp(-(logit + np.array([-1, 1]) * 1.959964 * se)))
    assert found["ci_logit"] == pytest.approx(expected, abs=1e-6)


def test_two_curves_by_the_definition():
    a, b, y = made_up(90, seed=3)
    found = roc.compare_auc(a, b, y)
    positives, negatives = zip(placements(a, y), placements(b, y), strict=True)
    covariance = np.cov(positives) / y.sum() + np.cov(negatives) / (~y).sum()
    se = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    difference = sk.roc_auc_score(y, a) - sk.roc_auc_score(y, b)
    assert found["difference"] == pytest.approx(difference)
    assert found["se"] == pytest.approx(se)
    assert found["z"] == pytest.approx(difference / se)
    assert found["p"] == pytest.approx(2 * stats.norm.sf(abs(difference / se)))
    assert found["ci"] == pytest.approx([difference - 1.959964 * se, difference + 1.959964 * se])
    turned = roc.compare_auc(b, a, y)
    assert (turned["z"], turned["p"]) == pytest.approx((-found["z"], found["p"]))


def test_equal_curves_have_no_test():
    a, _, y = made_up(40)
    for other in (a, 3 * a + 1):
        found = roc.compare_auc(a, other, y)
        assert found["difference"] == 0
        assert found["se"] is found["ci"] is found["z"] is found["p"] is None


@pytest.mark.parametrize("size", [(3, 3), (16, 14), (200, 5)])
def test_newcombes_interval_solves_its_equation(size):
    """Newcombe 2006, method 5: |area - t| = z sqrt(V(t)) at both limits."""
    m, n = size
    for area in (0.0, 0.35, 0.9, 1.0):
        limits = roc.newcombe_auc(area, m, n)
        assert 0 <= limits[0] <= area <= limits[1] <= 1
        for t in limits:
            k = (m + n) / 2 - 1
            v = t * (1 - t) * (1 + k * ((1 - t) / (2 - t) + t / (1 + t))) / (m * n)
            assert abs(area - t) == pytest.approx(1.959964 * v**0.5, abs=1e-6)
    assert roc.newcombe_auc(1.0, m, n)[0] < 0.9999


def test_perfect_separation_keeps_an_interval():
    y = np.repeat([False, True], [14, 16])
    found = roc.auc(np.arange(30), y)
    assert (found["auc"], found["se"], found["ci_method"]) == (1, 0, "Newcombe")
    assert 0.8 < found["ci"][0] < 0.95
    assert found["ci"][1] == 1
    assert found["ci_logit"] is None
    assert roc.auc(-np.arange(30), y)["ci"] == pytest.approx([0, 1 - found["ci"][0]])
    assert roc.youden(np.arange(30), y)["threshold"] == 13


def test_values_that_say_nothing():
    found = roc.auc([4.0] * 9, [True] * 4 + [False] * 5)
    assert (found["auc"], found["se"], found["p"]) == (0.5, 0, 1)
    assert found["ci"][0] < 0.5 < found["ci"][1]
    alone = roc.auc([1, 2, 3], [True, False, False])
    assert (alone["se"], alone["ci_method"]) == (None, "Newcombe")
    assert roc.compare_auc([1, 2, 3], [3, 1, 2], [True, False, False])["p"] is None


def test_odds_ratio_of_a_two_by_two_table():
    """By hand: 12 8 5 15 have the odds ratio 12 * 15 / (8 * 5); Woolf's interval."""
    values = np.repeat([0.0, 0.01, 0.0, 0.01], [8, 12, 15, 5])
    positive = np.repeat([True, True, False, False], [8, 12, 15, 5])
    found = roc.logistic(values, positive, per=0.01)
    ratio, se = 4.5, (1 / 12 + 1 / 8 + 1 / 5 + 1 / 15) ** 0.5
    assert found["odds_ratio"] == pytest.approx(ratio)
    assert found["ci"] == pytest.approx(ratio * np.exp(np.array([-1, 1]) * 1.959964 * se), rel=1e-5)
    assert found["p"] == pytest.approx(2 * stats.norm.sf(np.log(ratio) / se))
    assert found["reason"] is None
    assert roc.logistic(values, positive)["odds_ratio"] == pytest.approx(4.5**100, rel=1e-5)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([1, 2, 3, 4, 5, 6], "separates"),
        ([6, 5, 4, 3, 2, 1], "separates"),
        ([1, 2, 3, 3, 5, 6], "separates"),  # both outcomes at 3: still no maximum
        ([7, 7, 7, 7, 7, 7], "equal"),
    ],
)
def test_no_odds_ratio_where_there_is_none(values, reason):
    found = roc.logistic(values, [False] * 3 + [True] * 3)
    assert reason in found["reason"]
    assert found["odds_ratio"] is found["ci"] is found["p"] is None


def test_all_but_separated():
    """One pair overlaps by a hair: the slope is finite but its exponential is not a number."""
    values = np.array([0.1, 0.2, 0.5000001, 0.5, 0.8, 0.9])
    found = roc.logistic(values, [False] * 3 + [True] * 3, per=1.0)
    assert found["odds_ratio"] is None or np.isfinite(found["ci"]).all()
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("call", [roc.roc_points, roc.youden, roc.auc, roc.logistic])
def test_unusable_patients_are_refused(call):
    with pytest.raises(InputError, match="3 patients with the outcome and 0 without"):
        call([1, 2, 3], [True, True, True])
    with pytest.raises(InputError, match="1 of them not numbers"):
        call([1, np.nan, 3], [True, False, False])
    with pytest.raises(InputError, match="0 values"):
        call([], [])


def test_the_papers_counts_behind_its_percentages():
    """FACTS, 5: n = 86, specificity 89.3%, sensitivity 90.0%: only 50 of 56 and 27 of 30 fit."""
    fit = [
        (hits, n, cleared, 86 - n)
        for n in range(1, 86)
        for hits in range(n + 1)
        for cleared in range(87 - n)
        if f"{hits / n:.3f}" == "0.900" and f"{cleared / (86 - n):.3f}" == "0.893"
    ]
    assert fit == [(27, 30, 50, 56)]
    values = np.repeat([1, 0, 1, 0], [27, 3, 6, 50])
    found = roc.at_threshold(values, np.repeat([True, False], [30, 56]), 0.5)
    assert found["sensitivity"]["ci"] == pytest.approx([0.744, 0.965], abs=5e-4)
    assert found["specificity"]["ci"] == pytest.approx([0.785, 0.950], abs=5e-4)
