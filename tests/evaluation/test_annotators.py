"""Kappas against scikit-learn, statsmodels and hand computations; the published blastocysts."""

import json

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import fleiss_kappa

from fertiray.errors import InputError
from fertiray.evaluation.annotators import cohen, fleiss, gardner_agreement

# Fourteen annotators, ten subjects, five categories: the worked example of Wikipedia's article
# "Fleiss' kappa", 0.210.
WORKED = [
    [0, 0, 0, 0, 14],
    [0, 2, 6, 4, 2],
    [0, 0, 3, 5, 6],
    [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0],
    [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0],
    [0, 2, 2, 3, 7],
]


def graded(n: int, seed: int = 0, kinds: int = 4):
    rng = np.random.default_rng(seed)
    a = rng.integers(kinds, size=n)
    return a, np.where(rng.random(n) < 0.6, a, rng.integers(kinds, size=n))


def test_cohen_by_hand():
    """20 5 10 15 of 50: agreement 0.7, chance 0.5, kappa 0.4."""
    a, b = np.repeat([1, 1, 0, 0], [20, 5, 10, 15]), np.repeat([1, 0, 1, 0], [20, 5, 10, 15])
    found = cohen(a, b, resamples=50)
    assert found["kappa"] == pytest.approx(0.4)
    assert (found["agreement"]["share"], found["n"]) == (0.7, 50)
    assert found["weighted_kappa"] == pytest.approx(found["kappa"])  # two grades have one distance


def test_cohen_is_scikit_learns():
    a, b = graded(120)
    found = cohen(a, b, resamples=50)
    assert found["kappa"] == pytest.approx(cohen_kappa_score(a, b))
    assert found["weighted_kappa"] == pytest.approx(cohen_kappa_score(a, b, weights="quadratic"))


def test_the_weights_are_those_of_the_grades_not_of_their_ranks():
    a, b = np.array([0, 0, 4, 4, 0, 4, 3, 3]), np.array([0, 4, 4, 4, 0, 3, 3, 0])
    expected = cohen_kappa_score(a, b, weights="quadratic", labels=[0, 1, 2, 3, 4])
    assert cohen(a, b, resamples=50)["weighted_kappa"] == pytest.approx(expected)


def test_cohens_interval_is_that_of_drawn_images():
    a, b = graded(100, seed=4)
    rng = np.random.default_rng(9)
    drawn = [cohen_kappa_score(a[i], b[i]) for i in rng.integers(100, size=(1000, 100))]
    found = cohen(a, b, seed=1)
    assert found["kappa_ci"] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.02)
    assert found == cohen(a, b, seed=1)


def test_patients_are_drawn_whole():
    """Every image five times over: independent images would halve the width and more."""
    a, b = graded(60, seed=2)
    once = cohen(a, b)["kappa_ci"]
    copies = np.repeat(np.arange(60), 5)
    grouped = cohen(a[copies], b[copies], groups=copies)["kappa_ci"]
    blind = cohen(a[copies], b[copies])["kappa_ci"]
    assert grouped == pytest.approx(once, abs=1e-12)
    assert blind[1] - blind[0] < 0.6 * (once[1] - once[0])


def test_kappas_that_are_not_defined():
    same = cohen([1, 1, 1], [1, 1, 1])
    assert same["agreement"]["share"] == 1
    assert same["kappa"] is same["kappa_ci"] is same["weighted_kappa"] is None
    nothing = cohen([], [])
    assert nothing["n"] == 0
    assert nothing["kappa"] is nothing["agreement"]["share"] is None
    full = cohen([0, 1, 2, 0], [0, 1, 2, 0])
    assert (full["kappa"], full["kappa_ci"]) == (1, None)
    assert fleiss([[1, 1], [1, 1]])["kappa"] is None
    assert fleiss([[1, -1], [-1, 0]])["agreement"] is None
    assert fleiss(np.empty((0, 3)))["n"] == 0
    json.dumps([same, nothing, full], allow_nan=False)


def test_fleiss_of_the_worked_example():
    grades = [np.repeat(np.arange(5), row) for row in WORKED]
    found = fleiss(grades, resamples=50)
    assert round(found["kappa"], 3) == 0.210
    assert found["kappa"] == pytest.approx(fleiss_kappa(np.array(WORKED)))
    assert (found["n"], found["grades"]) == (10, 140)


def test_fleiss_with_missing_grades_by_hand():
    """Three images of up to three grades: 0 0 1, 1 1 and a lone 0.

    Pairs agree in 1/3 and 1, mean 2/3. Shares of grade 0 are 2/3, 0 and 1, mean 5/9, so chance is
    (25 + 16) / 81 and kappa (54 - 41) / (81 - 41).
    """
    found = fleiss([[0, 0, 1], [1, -1, 1], [-1, 0, -1]], resamples=50)
    assert found["agreement"] == pytest.approx(2 / 3)
    assert found["kappa"] == pytest.approx(13 / 40)
    assert (found["n"], found["grades"]) == (2, 6)


def test_two_annotators_without_gaps():
    """Fleiss' kappa of two is Scott's pi; by hand for 20 5 10 15: chance 0.55^2 + 0.45^2."""
    table = np.repeat([[1, 1], [1, 0], [0, 1], [0, 0]], [20, 5, 10, 15], axis=0)
    found = fleiss(table, seed=3)
    assert found["kappa"] == pytest.approx((0.7 - 0.505) / 0.495)
    assert found["kappa_ci"][0] < found["kappa"] < found["kappa_ci"][1]


def write(folder, **tables):
    place = folder / "annotations"
    place.mkdir()
    for name, text in tables.items():
        (place / f"{name}.csv").write_text(text)
    return str(folder)


SMALL = {
    "Gardner_Expert": "1_1.png,2,0,0\n1_2.png,3,1,1\n2_1.png,1,3,3\n3_1.png,4,0,2\n",
    "Annotator_0": "1_1.png,2,0,1\n1_2.png,3,3,1\n2_1.png,1,1,3\n3_1.png,4,,2\n",
    "Annotator_1": "1_1.png,0,2,2\n1_2.png,,3,\n3_1.png,1,1,1\n",
    "test_rev": "1_1.png,2.0,0,0\n1_2.png,3.0,1,1\n2_1.png,1.0,3,3\n3_1.png,-1.0,-1,2\n",
}


def test_what_counts_as_a_grade(tmp_path):
    """By hand, see the docstring: letters without a full blastocyst and 3 are no grades."""
    found = gardner_agreement(write(tmp_path, **SMALL), resamples=20)
    assert (found["images"], found["patients"]) == (4, 3)
    # Codes equal to the expert's: annotator 0 has 4 of 4, 1 of 3, 3 of 4; annotator 1 none.
    assert found["expert_agreement"]["Annotator_0"] == pytest.approx((1 + 1 / 3 + 3 / 4) / 3)
    assert found["panel"] == ["Annotator_0"]
    exp, icm, te = (found["tasks"][task]["consensus"] for task in ("EXP", "ICM", "TE"))

    def counts(row):
        return row["accuracy"]["hits"], row["accuracy"]["n"], row["n"]

    # The fourth image has no agreed expansion.
    assert counts(exp["Annotator_0"]) == (3, 3, 3)
    assert counts(exp["Annotator_1"]) == (0, 1, 1)
    # A 3 at a full blastocyst is wrong, the letter of an early one does not count.
    assert counts(icm["Annotator_0"]) == (1, 2, 1)
    assert counts(te["Annotator_0"]) == (2, 3, 3)
    # Without an expansion a 3 is taken at its word, an empty entry is owed.
    assert counts(icm["Annotator_1"]) == (0, 0, 0)
    assert counts(te["Annotator_1"]) == (0, 1, 0)
    assert icm["Annotator_1"]["kappa"] is None
    json.dumps(found, allow_nan=False)


def test_unusable_annotations(tmp_path):
    with pytest.raises(InputError, match=r"annotations: needs Annotator_\*"):
        gardner_agreement(str(tmp_path))
    wrong = {**SMALL, "Annotator_1": "1_1.png,2,0,0\n1_2.png,3,4,1\n"}
    with pytest.raises(InputError, match=r"Annotator_1.csv: line 2: ICM '4' is no code; give 0 to"):
        gardner_agreement(write(tmp_path, **wrong))


@pytest.mark.realdata
def test_the_published_blastocysts(real_data):
    """Kromp et al. 2023, the tables that its authors published, 300 images of 249 patients.

    The panel is the one named in their code. Accuracies and kappas of annotator 1, who left nothing
    out, were computed apart from this code: their rules, read off their scripts, with
    scikit-learn. The paper's own table could not be had; a page that builds on it (the model card
    embryo-scan-grader) gives .78 .74 .70 as the embryologists' accuracy, by rules it does not
    state: within 3 points.
    """
    found = gardner_agreement(str(real_data / "gardner_labels"), resamples=200)
    assert (found["images"], found["patients"], len(found["annotators"])) == (300, 249, 11)
    assert found["panel"] == [f"Annotator_{number}" for number in (0, 1, 2, 5, 7, 8)]
    known = {
        "EXP": (0.802, 0.849, 0.880, 0.814),
        "ICM": (0.750, 0.808, 0.849, None),
        "TE": (0.698, 0.840, 0.825, None),
    }
    elsewhere = {"EXP": 0.78, "ICM": 0.74, "TE": 0.70}
    for task, (panel, expert, first, kappa) in known.items():
        part = found["tasks"][task]
        assert round(part["panel_accuracy"]["mean"], 3) == panel
        assert part["panel_accuracy"]["mean"] == pytest.approx(elsewhere[task], abs=0.03)
        against = part["consensus"]
        assert round(against["Gardner_Expert"]["accuracy"]["share"], 3) == expert
        assert round(against["Annotator_1"]["accuracy"]["share"], 3) == first
        assert kappa is None or round(against["Annotator_1"]["kappa"], 3) == kappa
        assert part["fleiss_panel"]["kappa"] > part["fleiss"]["kappa"] > 0
        assert len(part["pairs"]) == 66
    # Annotator 4 used the scale of expansion upside down.
    assert found["tasks"]["EXP"]["consensus"]["Annotator_4"]["weighted_kappa"] < -0.5
    json.dumps(found, allow_nan=False)
