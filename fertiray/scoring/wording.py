"""The report's sentences: what a number says, what it does not, and what to do next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fertiray.models.ood import FAMILIAR
from fertiray.scoring.verdicts import ABOVE, INDETERMINATE, NO_RESULT, VERDICTS, ModelInfo

DISAGREE = 0.01  # p-value below which slides are said to disagree
# Share of crops above 1 among those like the training's; see models.ood.
UNLIKE_EXPECTED = 1 - FAMILIAR

Row = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """How one kind of result is talked about.

    Attributes:
        title: heading of its sections.
        share: what the percentage is a share of, completing "share of heads that ...".
        threshold: what the threshold is called.
        below: the short name of the side below the threshold, for figures.
        above: the short name of the side above it.
        origin: where the threshold comes from, with its limits.
    """

    title: str
    share: str
    threshold: str
    below: str
    above: str
    origin: str


TASKS = {
    "zona": Task(
        "Zona-pellucida binding",
        "look able to bind the zona pellucida",
        "threshold",
        "consider ICSI",
        "conventional IVF",
        "The threshold of 4.9% was found by Leung et al. (Human Reproduction Open) on 86 men with"
        " low or high fertilisation, for the percentage as counted by their own network. Whether it"
        " holds for another network, stain or laboratory has to be shown there.",
    ),
    "morphology": Task(
        "Head morphology",
        "have a normal form",
        "WHO reference",
        "below",
        "at or above",
        "The WHO laboratory manual (6th edition, 2021) gives 4% normal forms as the 5th percentile"
        " of men in couples that conceived within a year. It asks for the whole spermatozoon; this"
        " result sees heads only.",
    ),
}


def percent(value: float | None) -> str:
    """A share of 1 as a percentage: two decimals below 10%, one above, a dash for unknown."""
    if value is None:
        return "–"
    if value in (0.0, 1.0):
        return f"{100 * value:.0f}%"
    return f"{100 * value:.2f}%" if value < 0.0995 else f"{100 * value:.1f}%"


def level(value: float) -> str:
    """A stated share (a threshold, a tick) without trailing zeros: ``4.9%``, ``4%``."""
    return f"{round(100 * value, 2):g}%"


def bounds(low: float | None, high: float | None) -> str:
    """An interval of shares, ``2.10 to 4.55%``."""
    if low is None:
        return "–"
    return f"{percent(low).removesuffix('%')} to {percent(high)}"


def points(value: float | None) -> str:
    """A difference of shares in percentage points, with a true minus sign."""
    return "–" if value is None else f"{100 * value:.1f}".replace("-", "−")


def number(value: float | None) -> str:
    """A count with thousands separators."""
    return "–" if value is None else f"{value:,.0f}"


def probability(p: float) -> str:
    """A p-value to two digits."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def rounded(count: int) -> str:
    """A planned count to two digits, for "about N"."""
    size = 10 ** max(0, len(str(count)) - 2)
    return number(-(-count // size) * size)


def verdict_text(row: Row, model: ModelInfo) -> str:
    """What the verdict rests on and what to do, in two or three sentences."""
    if row["verdict"] == NO_RESULT:
        return (
            f"Not one head of this patient could be scored ({number(row['n_rejected'])} rejected)."
            " See why below, and make new images."
        )
    name = f"the {TASKS[model.task].threshold} of {level(model.threshold)}"
    if row["verdict_on"] == "fraction":
        side = "above" if row["fraction"] > model.threshold else "at or below"
        return (
            f"Read as the paper does it: the percentage as counted, {percent(row['fraction'])}, is"
            f" {side} {name}. This reading does not ask how sure the number is."
        )
    zona, corrected = model.task == "zona", row["verdict_on"] == "prevalence"
    prefix = "prevalence_ci" if corrected else "ci"
    interval = bounds(row[f"{prefix}_low"], row[f"{prefix}_high"])
    which = "corrected" if corrected else "counted"
    if row["verdict"] == INDETERMINATE:
        return (
            f"The 95% interval of the {which} percentage ({interval}) crosses {name}:"
            f" {number(row['n_scored'])} heads do not decide it. {_what_would(row, model)}"
        )
    text = f"The whole 95% interval of the {which} percentage ({interval}) is"
    if row["verdict"] == VERDICTS[model.task][ABOVE]:
        advice = "This speaks for conventional IVF." if zona else "This is within the reference."
        return f"{text} above {name}. {advice}"
    if zona:
        advice = "ICSI is to be considered, together with all other findings."
        return f"{text} at or below {name}. {advice}"
    return f"{text} below {name}. Fewer normal heads than that call for a full semen analysis."


def _what_would(row: Row, model: ModelInfo) -> str:
    if row["n_more"] is not None:
        return (
            "Score more: if the share stays as it is, about"
            f" {rounded(row['n_more'])} more heads would settle it."
        )
    if row["verdict_on"] == "prevalence" and model.accuracy and model.accuracy.counted:
        return (
            "More heads alone would not settle it: the estimate is too close to the"
            f" {TASKS[model.task].threshold}, given that the network's accuracy was measured on"
            f" {number(model.accuracy.n_positive)} positive and"
            f" {number(model.accuracy.n_negative)} other labelled heads only, and differs between"
            " patients."
        )
    return "More heads would not settle it: the estimate lies on the threshold itself."


def second_reading(row: Row, model: ModelInfo) -> str:
    """What the other way of reading would have said, where it differs; else an empty text."""
    if row["verdict_prevalence"] == row["verdict_fraction"]:
        return ""
    if row["verdict_on"] == "prevalence":
        how = "read as in the paper, " if model.task == "zona" else ""
        return (
            f"Without the correction ({how}{percent(row['fraction'])} as counted) it would read"
            f" “{row['verdict_fraction']}”."
        )
    if row["verdict_on"] == "fraction" or row["prevalence"] is not None:
        return (
            "With the correction for the network's own errors"
            f" ({bounds(row['prevalence_ci_low'], row['prevalence_ci_high'])}) it would read"
            f" “{row['verdict_prevalence']}”."
        )
    return ""


def skipped_text(row: Row, rates: Row | None) -> str:
    """That scoring this patient stopped early, and what that means; else an empty text."""
    if not rates or not row["n_skipped"]:
        return ""
    error = 100 * max(rates["alpha"], rates["beta"])
    return (
        f"Scoring stopped early: {number(row['n_skipped'])} of this patient's heads were not looked"
        f" at, because those looked at had decided the verdict. Scoring all of them would change"
        f" it in at most {error:g} of 100 patients, where the heads of a slide come in random"
        " order. The intervals are those of the heads scored and do not allow for stopping early."
    )


def slides_text(row: Row) -> str:
    """Whether the patient's slides agree."""
    slides = row["n_slides"]
    if slides < 2:
        return "Fewer than two slides: nothing can be said about reproducibility."
    limits = (
        f"{points(row['slide_difference_ci_low'])} to {points(row['slide_difference_ci_high'])}"
    )
    test = f"{row['slide_test']} {probability(row['slide_p'])}"
    gap = (
        f"the highest and the lowest are {points(row['slide_max_difference'])} percentage points"
        f" apart (95% CI {limits})"
    )
    if row["slide_p"] < DISAGREE:
        return (
            f"The {slides} slides disagree: {gap}, more than chance explains ({test}). The"
            " intervals above take all heads as one sample and are too narrow here."
        )
    return f"The {slides} slides agree: {gap}, no more than chance explains ({test})."


def conflict_text(row: Row) -> str:
    """A warning where the count cannot come from a network as accurate as validated."""
    if not row["validation_conflict"]:
        return ""
    return (
        "Fewer heads were called positive than the network's false alarms alone should give:"
        " its measured accuracy does not fit this sample (another stain, focus or preparation?)."
        " Do not trust the corrected percentage."
        if row["prevalence"] == 0
        else "More heads were called positive than a network of this sensitivity can find: its"
        " measured accuracy does not fit this sample. Do not trust the corrected percentage."
    )


def accuracy_text(model: ModelInfo) -> str:
    """The network's own accuracy and what it means for the count."""
    if model.accuracy is None:
        return (
            "The sensitivity and specificity of this network are not known: the percentage is shown"
            " as counted, without correction."
        )
    accuracy, sizes = model.accuracy, ("", "")
    if accuracy.counted:
        sizes = (f" (of {number(accuracy.n_positive)})", f" (of {number(accuracy.n_negative)})")
    false = 100 * (1 - accuracy.specificity)
    return (
        f"On labelled heads it had not seen, the network had a sensitivity of"
        f" {percent(accuracy.sensitivity)}{sizes[0]} and a specificity of"
        f" {percent(accuracy.specificity)}{sizes[1]} for “{model.positive}”. So a sample without"
        f" a single such head would still be counted as about {false:.1f}%; the corrected"
        " percentage allows for that"
        + (" and for how well the accuracy itself is known." if accuracy.counted else ".")
        + (
            f" From one patient to another the sensitivity varied by"
            f" {100 * accuracy.sensitivity_sd:.1f} and the specificity by"
            f" {100 * accuracy.specificity_sd:.1f} percentage points (standard deviation), beyond"
            " counting: the interval allows for that too."
            if accuracy.sensitivity_sd or accuracy.specificity_sd
            else ""
        )
    )


def cohort_slides_text(row: Row) -> str:
    """Slide-to-slide agreement of the cohort, from one row of the agreement table."""
    if not row["n_patients"]:
        return "No patient has two or more slides: reproducibility cannot be judged."
    icc = ""
    if row["icc"] is not None:
        icc = f" The intraclass correlation ICC(1,1) is {row['icc']:.2f}.".replace("-", "−")
    return (
        f"{number(row['n_patients'])} patients have two or more slides ({number(row['n_slides'])}"
        " in all). Two slides of one patient differ by less than"
        f" {points(row['repeatability'])} percentage points in 95% of cases (Bland and Altman's"
        " repeatability coefficient). The standard deviation between slides of one patient is"
        f" {points(row['within_sd'])} points, where counting alone would give"
        f" {points(row['counting_sd'])}.{icc}"
    )
