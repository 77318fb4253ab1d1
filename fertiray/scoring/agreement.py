"""Do the slides of one patient tell the same story? Per patient and for the whole cohort.

Per patient: a test that all slides share one fraction (Pearson's chi-square; where an expected
count is below 5, Fisher's exact test for two slides and a seeded Monte Carlo chi-square for more)
and the difference between the highest and the lowest slide with Newcombe's interval. That pair
was picked because it is extreme, so its interval describes and does not test.

For the cohort: slides are interchangeable repeats, so their agreement is the repeatability
coefficient of Bland and Altman (Statistical Methods in Medical Research 8:135-160, 1999), the
within-patient standard deviation beside the one that counting alone would give, and the one-way
intraclass correlation ICC(1,1) of Shrout and Fleiss (Psychological Bulletin 86:420-428, 1979).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from fertiray.evaluation.intervals import newcombe

SMALLEST_EXPECTED = 5.0
RESAMPLES, SEED = 9_999, 0

PATIENT_SCHEMA = {
    "patient_id": pl.String,
    "model": pl.String,
    "n_slides": pl.Int64,
    "slide_test": pl.String,
    "slide_p": pl.Float64,
    "slide_max_difference": pl.Float64,
    "slide_difference_ci_low": pl.Float64,
    "slide_difference_ci_high": pl.Float64,
}
COHORT_SCHEMA = {
    "model": pl.String,
    "n_patients": pl.Int64,
    "n_slides": pl.Int64,
    "within_sd": pl.Float64,
    "counting_sd": pl.Float64,
    "repeatability": pl.Float64,
    "icc": pl.Float64,
}


def homogeneity(positive: NDArray[np.int64], scored: NDArray[np.int64]) -> tuple[str, float]:
    """Tests whether two or more slides share one fraction of positive crops.

    Args:
        positive: positive crops of each slide, shape (slides,).
        scored: scored crops of each slide, all above 0, shape (slides,).

    Returns:
        The test's name and its p-value; 1 where every crop of every slide is of one kind.
    """
    table = np.stack([positive, scored - positive])
    totals = table.sum(axis=1)
    if totals.min() == 0:
        return "all alike", 1.0
    expected = np.outer(totals, scored) / scored.sum()
    if expected.min() >= SMALLEST_EXPECTED:
        return "chi-square", float(stats.chi2_contingency(table, correction=False).pvalue)
    if len(scored) == 2:
        return "Fisher exact", float(stats.fisher_exact(table).pvalue)
    draw = stats.MonteCarloMethod(n_resamples=RESAMPLES, rng=np.random.default_rng(SEED))
    result = stats.chi2_contingency(table, correction=False, method=draw)
    return "Monte Carlo chi-square", float(result.pvalue)


def patient_agreement(slides: pl.DataFrame) -> pl.DataFrame:
    """One row per patient and model with what its slides say about each other.

    Args:
        slides: rows with ``patient_id, slide_id, model, n_scored, n_positive``.

    Returns:
        ``PATIENT_SCHEMA``; test and difference are null where fewer than two slides were scored.
    """
    rows: list[dict[str, Any]] = []
    for (patient_id, model), group in slides.sort("patient_id", "slide_id", "model").group_by(
        "patient_id", "model", maintain_order=True
    ):
        used = group.filter(pl.col("n_scored") > 0)
        row: dict[str, Any] = {
            "patient_id": patient_id,
            "model": model,
            "n_slides": used.height,
        }
        if used.height >= 2:
            k, n = used["n_positive"].to_numpy(), used["n_scored"].to_numpy()
            highest, lowest = int(np.argmax(k / n)), int(np.argmin(k / n))
            limits = newcombe(k[highest], n[highest], k[lowest], n[lowest])
            row["slide_test"], row["slide_p"] = homogeneity(k, n)
            row["slide_max_difference"] = float(k[highest] / n[highest] - k[lowest] / n[lowest])
            row["slide_difference_ci_low"] = float(limits.low)
            row["slide_difference_ci_high"] = float(limits.high)
        rows.append(row)
    return pl.DataFrame(rows, schema=PATIENT_SCHEMA)


def cohort_agreement(slides: pl.DataFrame) -> pl.DataFrame:
    """One row per model: how well slides repeat each other, over patients with two or more.

    Args:
        slides: rows with ``patient_id, slide_id, model, n_scored, n_positive``.

    Returns:
        ``COHORT_SCHEMA``. ``within_sd`` and ``counting_sd`` are standard deviations of a slide's
        fraction (as shares of 1): as seen, and as drawing that many crops would give by chance.
        Two slides of one patient differ by less than ``repeatability`` (1.96 sqrt 2 within_sd)
        in 95% of cases. ``icc`` is null with fewer than two such patients or without any spread.
    """
    rows = []
    for (model,), group in slides.sort("model", "patient_id", "slide_id").group_by(
        "model", maintain_order=True
    ):
        repeats = group.filter(pl.col("n_scored") > 0).filter(
            pl.len().over("patient_id") >= 2,
        )
        rows.append({"model": model, **_repeatability(repeats)})
    return pl.DataFrame(rows, schema=COHORT_SCHEMA)


def _repeatability(repeats: pl.DataFrame) -> dict[str, Any]:
    n_patients, n_slides = repeats["patient_id"].n_unique(), repeats.height
    found: dict[str, Any] = {"n_patients": n_patients, "n_slides": n_slides}
    if n_patients == 0:
        return found
    fraction = pl.col("n_positive") / pl.col("n_scored")
    pooled = pl.col("n_positive").sum() / pl.col("n_scored").sum()
    columns = repeats.select(
        fraction=fraction,
        mean=fraction.mean().over("patient_id"),
        slides=pl.len().over("patient_id"),
        chance=(pooled * (1 - pooled)).over("patient_id") / pl.col("n_scored"),
    )
    values, means = columns["fraction"].to_numpy(), columns["mean"].to_numpy()
    within = float(((values - means) ** 2).sum() / (n_slides - n_patients))
    found["within_sd"] = within**0.5
    found["counting_sd"] = float(columns["chance"].to_numpy().mean() ** 0.5)
    found["repeatability"] = 1.96 * (2 * within) ** 0.5
    if n_patients >= 2:
        between = float(((means - values.mean()) ** 2).sum() / (n_patients - 1))
        # Sum over slides of "slides of the same patient" is the sum of squares over patients.
        size = (n_slides - float(columns["slides"].to_numpy().sum()) / n_slides) / (n_patients - 1)
        spread = between + (size - 1) * within
        found["icc"] = (between - within) / spread if spread > 0 else None
    return found
