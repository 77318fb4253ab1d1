"""Metrics against scikit-learn, scipy, hand computations and the embryo paper's own counts."""

import json

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from fertiray.evaluation import bootstrap, metrics
from fertiray.evaluation.intervals import wilson


def made_up(n: int, classes: int, seed: int = 0, decimals: int = 2):
    """Probabilities with ties and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    logits = rng.normal(size=(n, classes))
    logits[np.arange(n), labels] += 1
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    counts = np.floor(shares * 10**decimals)
    counts[:, -1] += 10**decimals - counts.sum(1)
    return counts / counts.sum(1, keepdims=True), labels


def from_counts(tp: int, fn: int, fp: int, tn: int):
    """Hard probabilities of (poor, good) with these counts of the good."""
    called = np.repeat([1, 0, 1, 0], [tp, fn, fp, tn])
    return np.eye(2)[called], np.repeat([1, 1, 0, 0], [tp, fn, fp, tn])


@pytest.mark.parametrize(("n", "classes"), [(60, 2), (90, 3), (200, 4)])
def test_point_values_are_those_of_scikit_learn(n, classes):
    p, y = made_up(n, classes)
    names = [f"c{i}" for i in range(classes)]
    found = metrics.measure(p, y, names, "c1", resamples=10)
    called = p.argmax(1)
    precision, recall, f1, _ = sk.precision_recall_fscore_support(y, called, average="macro")
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(y, called))
    assert found["macro_precision"] == pytest.approx(precision)
    assert found["macro_recall"] == pytest.approx(recall)
    assert found["macro_f1"] == pytest.approx(f1)
    assert found["confusion"] == sk.confusion_matrix(y, called).tolist()
    scores = p[:, 1] if classes == 2 else p
    assert found["roc_auc"] == pytest.approx(sk.roc_auc_score(y, scores, multi_class="ovr"))
    assert found["log_loss"] == pytest.approx(sk.log_loss(y, p.astype(np.float32)), rel=1e-5)
    if classes == 2:
        assert found["average_precision"] == pytest.approx(sk.average_precision_score(y, scores))
    else:
        assert found["average_precision"] is None
    by_class = sk.precision_recall_fscore_support(y, called)
    for key, expected in zip(("precision", "recall", "f1", "n"), by_class, strict=True):
        assert [row[key] for row in found["per_class"]] == pytest.approx(list(expected))
    json.dumps(found, allow_nan=False)


def test_the_proposed_embryo_network_of_the_paper():
    """FACTS, 1: 11 1 2 67 are P .9157, R .9438, F1 .9291, accuracy .9630; all four agree."""
    found = metrics.measure(*from_counts(11, 1, 2, 67), ("poor", "good"), "good")
    assert round(found["macro_precision"], 4) == 0.9157
    assert round(found["macro_recall"], 4) == 0.9438
    assert round(found["macro_f1"], 4) == 0.9291
    assert round(found["accuracy"], 4) == 0.9630
    assert found["sensitivity"] == 11 / 12
    assert found["specificity"] == 67 / 69
    assert found["confusion"] == [[67, 2], [1, 11]]
    assert found["ci"]["accuracy"] == pytest.approx([float(x) for x in wilson(78, 81)])
    assert found["ci"]["sensitivity"] == pytest.approx([float(x) for x in wilson(11, 12)])
    assert found["per_class"][0]["recall_ci"] == found["ci"]["specificity"]


def test_the_threshold_decides_the_label_of_the_positive_class():
    p = np.array([[0.7, 0.3], [0.4, 0.6], [0.2, 0.8]])
    found = metrics.measure(p, [1, 0, 1], ("poor", "good"), "good", 0.3, resamples=10)
    assert found["confusion"] == [[0, 1], [0, 2]]
    found = metrics.measure(p, [1, 0, 1], ("poor", "good"), "good", 0.7, resamples=10)
    assert found["confusion"] == [[1, 0], [1, 1]]
    assert metrics.measure(p, [1, 0, 1], ("poor", "good"))["confusion"] == [[0, 1], [1, 1]]


def test_what_is_not_known_is_none():
    found = metrics.measure([[0.9, 0.1], [0.2, 0.8]], [0, 0], ("poor", "good"), "good")
    assert found["roc_auc"] is found["average_precision"] is found["sensitivity"] is None
    assert found["ci"]["roc_auc"] is found["ci"]["sensitivity"] is None
    assert found["per_class"][1]["recall"] is None
    assert found["specificity"] == 0.5
    found = metrics.measure([[0.9, 0.1]], [0], ("poor", "good"), "good")
    assert found["ci"]["macro_f1"] is None  # one image can be drawn in one way only
    assert found["ci"]["accuracy"] == [pytest.approx(0.2065, abs=1e-4), 1.0]  # Wilson of 1 of 1


def test_resamples_are_those_of_scikit_learn():
    """A resample's weights give what scikit-learn gives for the images drawn so often."""
    p, y = made_up(40, 3, seed=3)
    calls = bootstrap.Calls(p, y, p.argmax(1), 1)
    times = np.random.default_rng(1).multinomial(40, [1 / 40] * 40, size=20)
    found = bootstrap.statistics(calls, times.astype(float))
    for row, counts in enumerate(times):
        drawn = np.repeat(np.arange(40), counts)
        called = p[drawn].argmax(1)
        expected = sk.f1_score(y[drawn], called, average="macro")
        assert found["macro_f1"][row] == pytest.approx(expected)
        expected = sk.roc_auc_score(y[drawn], p[drawn], multi_class="ovr")
        assert found["roc_auc"][row] == pytest.approx(expected)
        auc, precision = bootstrap.ranked(counts[None].astype(float), p[:, 1], y == 1)
        assert auc[0] == pytest.approx(sk.roc_auc_score(y[drawn] == 1, p[drawn, 1]))
        expected = sk.average_precision_score(y[drawn] == 1, p[drawn, 1])
        assert precision[0] == pytest.approx(expected)


def test_the_bootstrap_is_scipys(monkeypatch):
    p, y = made_up(150, 2, seed=5, decimals=6)
    monkeypatch.setattr(bootstrap, "CHUNK", 1000)  # several chunks
    found = metrics.measure(p, y, ("a", "b"), "b", seed=1, resamples=4000)["ci"]
    own = stats.bootstrap(
        (p[:, 1], y),
        lambda score, truth: sk.roc_auc_score(truth, score),
        paired=True,
        vectorized=False,
        n_resamples=1000,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert found["roc_auc"] == pytest.approx([own.low, own.high], abs=0.012)
    assert found == metrics.measure(p, y, ("a", "b"), "b", seed=1, resamples=4000)["ci"]
    assert found != metrics.measure(p, y, ("a", "b"), "b", seed=2, resamples=4000)["ci"]


def test_groups_are_drawn_whole():
    """Every image ten times over: independent images would say a third of the true width."""
    p, y = made_up(60, 2, seed=7, decimals=6)
    names = ("a", "b")
    once = metrics.measure(p, y, names, "b")["ci"]
    copies = np.repeat(np.arange(60), 10)
    grouped = metrics.measure(p[copies], y[copies], names, "b", groups=copies)["ci"]
    blind = metrics.measure(p[copies], y[copies], names, "b")["ci"]

    def width(interval):
        return interval[1] - interval[0]

    assert grouped["roc_auc"] == pytest.approx(once["roc_auc"], abs=1e-12)
    assert width(blind["roc_auc"]) < 0.5 * width(once["roc_auc"])
    assert width(grouped["accuracy_grouped"]) > 2 * width(grouped["accuracy"])
    assert "accuracy_grouped" not in once


def test_one_group_says_nothing_of_others():
    p, y = made_up(60, 3)
    names = ["a", "b", "c"]
    images = metrics.measure(p, y, names)["ci"]
    one = metrics.measure(p, y, names, groups=np.zeros(60))["ci"]
    for name in ("macro_precision", "macro_recall", "macro_f1", "roc_auc", "log_loss"):
        assert images[name][0] < images[name][1]
        assert one[name] is None


def test_day_rule_of_the_embryo_set():
    """FACTS, 1: of 840 labelled images 22 of 560 D3 and 102 of 280 D5 are good."""
    days = ["D3"] * 560 + ["D5"] * 280
    labels = [1] * 22 + [0] * 538 + [1] * 102 + [0] * 178
    found = metrics.day_rule(days, labels, ("poor", "good"), "good")
    assert found["confusion"] == [[538, 178], [22, 102]]
    assert found["accuracy"] == 640 / 840
    assert found["sensitivity"] == 102 / 124
    # A rule's ROC curve has one corner: its area is (sensitivity + specificity) / 2.
    assert found["roc_auc"] == pytest.approx((102 / 124 + 538 / 716) / 2)
    assert found["log_loss"] is None
    turned = metrics.day_rule(days, [1 - y for y in labels], ("good", "poor"), "good")
    assert turned["sensitivity"] == found["sensitivity"]


def test_within_a_facet_only_its_own_images_count():
    p, y = made_up(80, 2, seed=9)
    days = ["D3", "D5", "D5", ""] * 20
    found = metrics.within(days, p, y, ("poor", "good"), "good", 0.5, groups=np.arange(80) // 2)
    assert list(found) == ["D3", "D5"]
    assert [part["n"] for part in found.values()] == [20, 40]
    alone = metrics.measure(p[::4], y[::4], ("poor", "good"), "good", 0.5)
    assert found["D3"]["roc_auc"] == alone["roc_auc"]


def test_fold_summary():
    """The folds of the data page's HuSHeM run; t with 4 degrees of freedom is 2.776 (FACTS, 4)."""
    values = [0.955, 0.860, 0.977, 0.953, 0.953]
    found = metrics.fold_summary(values)
    assert round(found["mean"], 3) == 0.940
    assert found["sd"] == pytest.approx(np.std(values, ddof=1))
    half = 2.776 * found["sd"] / 5**0.5
    assert found["ci95"] == pytest.approx([found["mean"] - half, found["mean"] + half], abs=1e-5)
    own = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found["ci95"] == pytest.approx([own.low, own.high])
    assert metrics.fold_summary([0.5, None])["mean"] == 0.5
    assert metrics.fold_summary([0.5])["ci95"] is None
    assert metrics.fold_summary([])["mean"] is None


def test_madrnets_interval_on_smids():
    """FACTS, 4: 89.33 with sd 1.07 over five folds is printed as 88.01 to 90.66."""
    values = 89.33 + 1.07 * np.array([-1, -1, 0, 1, 1])  # sample variance 4/4
    assert metrics.fold_summary(list(values))["ci95"] == pytest.approx([88.01, 90.66], abs=0.01)


def test_corrected_resampled_t():
    """Nadeau & Bengio 2003 by hand: with five folds 1/5 + 0.2/0.8 = 0.45 of the variance."""
    differences = [0.02, 0.04, -0.01, 0.03, 0.05]
    found = metrics.corrected_t(differences, 0.2)
    paired = stats.ttest_1samp(differences, 0)
    assert found["paired"]["t"] == pytest.approx(paired.statistic)
    assert found["paired"]["p"] == pytest.approx(paired.pvalue)
    t = 0.026 / (0.45 * np.var(differences, ddof=1)) ** 0.5
    assert found["corrected"]["t"] == pytest.approx(t)
    assert found["corrected"]["p"] == pytest.approx(2 * stats.t.sf(t, 4))
    assert found["corrected"]["p"] > found["paired"]["p"]
    assert metrics.corrected_t([0.1, 0.1, 0.1], 0.2)["corrected"] == {"t": None, "p": None}


def test_mcnemar_is_statsmodels():
    from statsmodels.stats.contingency_tables import mcnemar

    rng = np.random.default_rng(0)
    a, b = rng.random(100) < 0.9, rng.random(100) < 0.7
    found = metrics.mcnemar(a, b)
    table = [[int((a & b).sum()), int((a & ~b).sum())], [int((~a & b).sum()), int((~a & ~b).sum())]]
    assert found["p"] == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert (found["only_a"], found["only_b"]) == (table[0][1], table[1][0])
    assert metrics.mcnemar(a, a) == {"only_a": 0, "only_b": 0, "p": 1.0}
