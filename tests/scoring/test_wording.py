"""The report's sentences and the geometry of its figures."""

from __future__ import annotations

from typing import Any

import pytest

from fertiray.evaluation.intervals import Accuracy
from fertiray.scoring import wording
from fertiray.scoring.figures import cohort_axis, patient_axis
from fertiray.scoring.verdicts import ModelInfo

ZONA = ModelInfo("z", "zona", ("unbound", "bound"), "bound", Accuracy(0.976, 0.96, 125, 146))
ROW: dict[str, Any] = {
    "n_scored": 300,
    "n_rejected": 4,
    "fraction": 0.1,
    "ci_low": 0.07,
    "ci_high": 0.14,
    "prevalence": 0.064,
    "prevalence_ci_low": 0.021,
    "prevalence_ci_high": 0.108,
    "verdict": "indeterminate",
    "verdict_on": "prevalence",
    "verdict_prevalence": "indeterminate",
    "verdict_fraction": "conventional IVF",
    "n_more": 1234,
    "validation_conflict": False,
    "n_slides": 2,
    "slide_test": "chi-square",
    "slide_p": 0.5,
    "slide_max_difference": 0.012,
    "slide_difference_ci_low": -0.01,
    "slide_difference_ci_high": 0.034,
}


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, "–"),
        (0.0, "0%"),
        (0.0493, "4.93%"),  # one decimal would read as the threshold itself
        (0.0994, "9.94%"),
        (0.0999, "10.0%"),
        (0.528, "52.8%"),
        (1.0, "100%"),
    ],
)
def test_percentages(share: float | None, text: str) -> None:
    assert wording.percent(share) == text


def test_thresholds_have_no_trailing_zeros() -> None:
    assert (wording.level(0.049), wording.level(0.04)) == ("4.9%", "4%")


def test_an_indeterminate_result_says_what_would_settle_it() -> None:
    assert wording.verdict_text(ROW, ZONA) == (
        "The 95% interval of the corrected percentage (2.10 to 10.8%) crosses the threshold of"
        " 4.9%: 300 heads do not decide it. Score more: if the share stays as it is, about 1,300"
        " more heads would settle it."
    )
    stuck = wording.verdict_text({**ROW, "n_more": None}, ZONA)
    assert "More heads alone would not settle it" in stuck
    assert "125 positive and 146 other labelled heads only" in stuck


def test_the_other_reading_is_told_where_it_differs() -> None:
    assert "it would read “conventional IVF”" in wording.second_reading(ROW, ZONA)
    assert wording.second_reading({**ROW, "verdict_fraction": "indeterminate"}, ZONA) == ""
    turned = {**ROW, "verdict_on": "fraction", "verdict": "conventional IVF"}
    assert "With the correction" in wording.second_reading(turned, ZONA)
    assert "does not ask how sure the number is" in wording.verdict_text(turned, ZONA)


def test_slides_are_said_to_agree_or_not() -> None:
    assert "slides agree" in wording.slides_text(ROW)
    assert "(95% CI −1.0 to 3.4)" in wording.slides_text(ROW)
    assert "slides disagree" in wording.slides_text({**ROW, "slide_p": 0.0001})
    assert "Fewer than two slides" in wording.slides_text({**ROW, "n_slides": 1})


def test_a_count_that_contradicts_the_validation_is_a_warning() -> None:
    assert wording.conflict_text(ROW) == ""
    low = wording.conflict_text({**ROW, "validation_conflict": True, "prevalence": 0.0})
    high = wording.conflict_text({**ROW, "validation_conflict": True, "prevalence": 1.0})
    assert low.startswith("Fewer heads were called positive")
    assert high.startswith("More heads were called positive")


def test_axes_hold_the_intervals_and_the_threshold() -> None:
    axis = patient_axis(0.5, 0.049)
    assert axis.high == pytest.approx(0.56)
    assert axis.x(0.0) == axis.left
    assert axis.x(0.28) == pytest.approx((axis.left + axis.right) / 2)
    assert axis.x(0.9) == axis.right
    assert axis.ticks == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert patient_axis(0.01, 0.049).high == pytest.approx(0.147)
    assert patient_axis(0.999, 0.049).high == 1.0
    near = cohort_axis(0.049)
    assert near.x(0.049) == pytest.approx(near.left + (near.right - near.left) / 4, abs=0.05)
