"""Curves are scikit-learn's, bands those of resamples drawn one by one, areas those of measure."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc

from fertiray.evaluation.figures.roc import GRID, MACRO, curves, roc_figure
from fertiray.evaluation.metrics import measure

CLASSES = ("a", "b", "c")


@pytest.fixture(scope="module")
def three():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, 60)
    logits = rng.normal(size=(60, 3)) + 1.2 * np.eye(3)[labels]
    probabilities = np.exp(logits).round(1)  # with ties
    return probabilities / probabilities.sum(1, keepdims=True), labels


def test_curves_and_areas_are_scikit_learns(three):
    probabilities, labels = three
    found = curves(probabilities, labels, CLASSES, resamples=20)
    for k, (roc, pr) in enumerate(zip(found.roc[:3], found.pr[:3], strict=True)):
        own = labels == k
        x, y, _ = sklearn_roc(own, probabilities[:, k])
        assert (roc.name, roc.x.tolist(), roc.y.tolist()) == (CLASSES[k], x.tolist(), y.tolist())
        assert roc.area == pytest.approx(roc_auc_score(own, probabilities[:, k]))
        precision, recall, _ = precision_recall_curve(own, probabilities[:, k])
        assert pr.x.tolist() == recall[::-1].tolist()
        assert pr.y.tolist() == precision[::-1].tolist()
        assert pr.area == pytest.approx(average_precision_score(own, probabilities[:, k]))
        assert found.prevalence[CLASSES[k]] == pytest.approx(own.mean())
    assert found.roc[3].name == MACRO == found.pr[3].name
    assert found.roc[3].area == pytest.approx(
        roc_auc_score(labels, probabilities, multi_class="ovr")
    )


def test_intervals_are_those_that_measure_gives(three):
    probabilities, labels = three
    groups = np.arange(60) // 2
    found = curves(probabilities, labels, CLASSES, groups=groups, seed=5, resamples=300)
    measured = measure(probabilities, labels, CLASSES, groups=groups, seed=5, resamples=300)
    assert found.roc[3].area == pytest.approx(measured["roc_auc"])
    assert found.roc[3].ci == pytest.approx(measured["ci"]["roc_auc"])
    two = np.stack([1 - probabilities[:, 0], probabilities[:, 0]], 1)
    found = curves(two, labels == 0, ("rest", "a"), "a", seed=5, resamples=300)
    measured = measure(two, labels == 0, ("rest", "a"), "a", seed=5, resamples=300)
    assert found.roc[0].ci == pytest.approx(measured["ci"]["roc_auc"])
    assert found.pr[0].ci == pytest.approx(measured["ci"]["average_precision"])


def test_bands_are_those_of_resamples_drawn_one_by_one(three):
    probabilities, labels = three
    scores, own = probabilities[:, 1], labels == 1
    two = np.stack([1 - scores, scores], 1)
    found = curves(two, own, ("rest", "b"), seed=1, resamples=40)
    drawn = np.random.default_rng(1).integers(60, size=(40, 60))
    sensitivity, precision = [], []
    for picked in drawn:
        x, y, _ = sklearn_roc(own[picked], scores[picked], drop_intermediate=False)
        sensitivity.append(np.interp(GRID, x, y))
        p, r, _ = precision_recall_curve(own[picked], scores[picked])
        # The first threshold from above that recalls as much; the last point is scikit-learn's own.
        p, r = p[-2::-1], r[-2::-1]
        precision.append(p[np.searchsorted(r, GRID - 1e-12)])
    for curve, expected in ((found.roc[0], sensitivity), (found.pr[0], precision)):
        low, high = np.percentile(expected, [2.5, 97.5], axis=0)
        assert curve.low == pytest.approx(low, abs=1e-9)
        assert curve.high == pytest.approx(high, abs=1e-9)


def test_a_class_without_images_has_no_curve_and_there_is_no_mean(three):
    probabilities, labels = three
    kept = labels != 2
    found = curves(probabilities[kept], labels[kept], CLASSES, resamples=10)
    assert [curve.name for curve in found.roc] == ["a", "b"] == list(found.prevalence)
    figure = roc_figure(probabilities[kept], labels[kept], CLASSES, resamples=10)
    assert "c " not in " ".join(figure.axes[0].get_legend_handles_labels()[1])


def test_one_class_alone_gives_an_empty_figure():
    figure = roc_figure([[0.7, 0.3], [0.6, 0.4]], [0, 0], ("a", "b"), "b", 0.5)
    assert figure.axes[1].get_legend() is None
    assert len(figure.axes[0].get_lines()) == 1  # the diagonal


def test_one_patient_alone_has_no_interval(three):
    probabilities, labels = three
    found = curves(probabilities, labels, CLASSES, groups=np.zeros(60))
    assert all(curve.ci is None and curve.low is None for curve in (*found.roc, *found.pr))
    assert found.roc[0].label == f"a {found.roc[0].area:.3f}"


def test_a_perfect_curve_has_newcombes_interval():
    scores = np.r_[np.linspace(0.1, 0.4, 14), np.linspace(0.6, 0.9, 16)]
    two = np.stack([1 - scores, scores], 1)
    found = curves(two, scores > 0.5, ("no", "yes"), resamples=50)
    # 16 against 14, all in order: Newcombe 2006, method 5, as evaluation.roc computes it.
    assert found.roc[0].label == "yes 1.000 (0.864 to 1.000)"
    assert found.roc[0].low is None
    assert found.pr[0].label == "yes 1.000"


def test_the_threshold_lies_on_the_curves():
    # By hand: at 0.5, 2 of 3 positives and 1 of 2 negatives are called.
    scores = np.array([0.9, 0.6, 0.2, 0.7, 0.1])
    figure = roc_figure(
        np.stack([1 - scores, scores], 1), [1, 1, 1, 0, 0], ("no", "yes"), "yes", 0.5, resamples=10
    )
    points = []
    for axes in figure.axes:
        (mark,) = [line for line in axes.get_lines() if "threshold" in line.get_label()]
        points.append([value[0] for value in mark.get_data()])
    assert points == [[1 / 2, pytest.approx(2 / 3)], [pytest.approx(2 / 3), pytest.approx(2 / 3)]]


def test_the_legend_has_area_and_interval_and_b_has_the_prevalence(three):
    probabilities, labels = three
    left, right = roc_figure(probabilities, labels, CLASSES, resamples=50).axes
    found = curves(probabilities, labels, CLASSES, resamples=50)
    texts = [text.get_text() for text in left.get_legend().get_texts()]
    low, high = found.roc[0].ci
    assert texts[0] == f"a {found.roc[0].area:.3f} ({low:.3f} to {high:.3f})"
    assert texts[3].startswith("macro average")
    assert "prevalence" in [text.get_text() for text in right.get_legend().get_texts()]
    levels = [
        y for line in right.get_lines() if line.get_linestyle() == ":" for y in line.get_ydata()
    ]
    assert np.mean(labels == 0) in levels
