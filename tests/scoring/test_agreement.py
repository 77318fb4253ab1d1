"""Slide agreement against scipy, statsmodels and the papers' own examples."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportions_chisquare

from fertiray.scoring.agreement import cohort_agreement, homogeneity, patient_agreement


def slides(counts: dict[str, list[tuple[int, int]]], model: str = "zona") -> pl.DataFrame:
    """From patient -> [(positive, scored), ...], one pair per slide."""
    return pl.DataFrame(
        [
            (patient, f"slide-{number}", model, positive, scored)
            for patient, pairs in counts.items()
            for number, (positive, scored) in enumerate(pairs)
        ],
        schema=["patient_id", "slide_id", "model", "n_positive", "n_scored"],
        orient="row",
    )


def test_many_crops_use_pearsons_chi_square() -> None:
    k, n = np.array([30, 50, 41]), np.array([200, 210, 190])
    name, p = homogeneity(k, n)
    assert name == "chi-square"
    assert p == pytest.approx(proportions_chisquare(k, n)[1])


def test_few_positives_on_two_slides_use_fishers_lady() -> None:
    # Fisher's tea tasting, 3 of 4 against 1 of 4: two-sided p = 34/70.
    name, p = homogeneity(np.array([3, 1]), np.array([4, 4]))
    assert name == "Fisher exact"
    assert p == pytest.approx(34 / 70)


def test_few_positives_on_three_slides_are_drawn_and_repeatable() -> None:
    k, n = np.array([0, 1, 6]), np.array([30, 30, 30])
    name, p = homogeneity(k, n)
    assert name == "Monte Carlo chi-square"
    assert homogeneity(k, n) == (name, p)
    # The exact conditional p: all ways to place 7 positives on 3 slides of 30.
    ways = [(a, b, 7 - a - b) for a in range(8) for b in range(8 - a)]
    law = stats.multivariate_hypergeom(n, 7)
    statistic = {way: sum((np.array(way) - 7 / 3) ** 2) for way in ways}
    exact = sum(law.pmf(way) for way in ways if statistic[way] >= statistic[0, 1, 6] - 1e-9)
    assert p == pytest.approx(exact, abs=0.006)


def test_slides_all_of_one_kind_agree() -> None:
    assert homogeneity(np.array([0, 0]), np.array([40, 50])) == ("all alike", 1.0)
    assert homogeneity(np.array([40, 50]), np.array([40, 50])) == ("all alike", 1.0)


def test_the_extreme_slides_are_compared_and_empty_ones_left_out() -> None:
    found = patient_agreement(slides({"a": [(48, 80), (0, 0), (56, 70), (50, 75)], "b": [(1, 9)]}))
    a, b = found.rows(named=True)
    assert (a["n_slides"], b["n_slides"]) == (3, 1)
    # Newcombe 1998, Table II, method 10: 56/70 - 48/80
    limits = (a["slide_difference_ci_low"], a["slide_difference_ci_high"])
    assert limits == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert b["slide_test"] is None


def test_icc_is_shrout_and_fleiss() -> None:
    """Shrout and Fleiss 1979, Table 2: six targets, four judges; Table 4: ICC(1,1) = .17."""
    ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    table = slides({str(i): [(10 * r, 100) for r in row] for i, row in enumerate(ratings)})
    found = cohort_agreement(table).row(0, named=True)
    assert found["icc"] == pytest.approx(0.17, abs=0.005)
    # Table 3 of the same paper: within-target mean square 6.26 (ratings of 0 to 10 are tenths).
    assert found["within_sd"] == pytest.approx(6.26**0.5 / 10, abs=1e-4)
    assert found["repeatability"] == pytest.approx(1.96 * (2 * 6.26) ** 0.5 / 10, abs=1e-3)
    assert (found["n_patients"], found["n_slides"]) == (6, 24)


def test_slides_that_differ_only_by_chance_show_the_counting_error() -> None:
    rng = np.random.default_rng(7)
    drawn = rng.binomial(400, 0.1, size=(400, 2)).tolist()
    table = slides(
        {str(i): [(first, 400), (second, 400)] for i, (first, second) in enumerate(drawn)}
    )
    found = cohort_agreement(table).row(0, named=True)
    assert found["counting_sd"] == pytest.approx((0.1 * 0.9 / 400) ** 0.5, rel=0.02)
    assert found["within_sd"] == pytest.approx(found["counting_sd"], rel=0.1)
    assert abs(found["icc"]) < 0.15  # all patients are alike: nothing to tell apart


def test_patients_with_one_slide_say_nothing_about_repeats() -> None:
    found = cohort_agreement(slides({"a": [(1, 9)], "b": [(3, 9), (0, 0)]})).row(0, named=True)
    assert found["n_patients"] == 0
    assert found["within_sd"] is None
    assert found["icc"] is None
