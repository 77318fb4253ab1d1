"""What adaptive scoring saves and how often it is wrong, on simulated cohorts.

No network runs: a patient is a share of crops that the network calls bound, a crop is a label drawn
with it, and the shards are those of a crop store. The rounds are those of ``fertiray score
--adaptive``. Every patient is also scored in full, and the two verdicts are compared with each
other and with the truth.

The patients are the three groups of the zona paper (Leung et al., Human Reproduction Open), whose
percentages are those that its network counted: means 2.6, 14.9 and 20.2% with standard errors 0.5,
2.8 and 2.2. Of its 117 men 86 are in the outer groups. The paper does not say how many in each, but
only one division of 86 gives its 90.0% (27 of 30) and 89.3% (50 of 56); the sensitivity is taken to
be that for the low group. Within a group shares follow a beta distribution.

Most of these men are clear. So the same is asked of men who are all close to a boundary of the
verdict, where mistakes are made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.random import Generator

from fertiray import provenance
from fertiray.data.crops import ROW_GROUP
from fertiray.evaluation.intervals import Accuracy, rogan_gladen, wilson
from fertiray.scoring.adaptive import Adaptive, verdicts
from fertiray.scoring.aggregate import VerdictOn
from fertiray.scoring.rounds import Rounds
from fertiray.scoring.verdicts import ABOVE, BELOW, INDETERMINATE, VERDICTS, ModelInfo

# Mean, standard error and men.
GROUPS = {"low": (0.026, 0.005, 30), "intermediate": (0.149, 0.028, 31), "high": (0.202, 0.022, 56)}
SLIDES = 2
# The paper's accuracy; its 220 test images, divided so that 96.7% of all are right.
ACCURACY = Accuracy(0.976, 0.960, 96, 124)
MODEL = ModelInfo("zona", "zona", ("unbound", "bound"), "bound", ACCURACY)
# By reading, a counted share at which full scoring's verdict is close to tipping.
READINGS: dict[VerdictOn, float] = {"prevalence": 0.127, "fraction": 0.055}
CLOSE = 50  # such men for each cohort
PATIENT = "P"


@dataclass(frozen=True)
class Order:
    """How a patient's crops lie.

    Attributes:
        name: what the table calls it.
        slides: coefficient of variation of the share between the slides of a patient.
        shards: the same between the shards of a slide, beyond counting; what the test assumes to
            be zero.
    """

    name: str
    slides: float
    shards: float


ORDERS = (
    Order("random order", 0.0, 0.0),
    Order("slides differ by 20%", 0.2, 0.0),
    Order("slides differ by 20%, fields by 20%", 0.2, 0.2),
    Order("slides differ by 20%, fields by 40%", 0.2, 0.4),
)


def bench_adaptive(
    rates: Adaptive,
    *,
    cohorts: int,
    crops: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Simulates cohorts of 117 men for every reading of the threshold and every order of crops.

    Args:
        rates: the error rates.
        cohorts: how many.
        crops: of a patient.
        seed: names the simulation.
        progress: called with simulated patients and patients in all.

    Returns:
        ``points``: for each ``verdict_on`` and ``order`` the numbers of :func:`_point`, and in
        ``close`` the same of men close to the boundary, all with the counted share
        ``close_share``; the settings; ``command, machine, versions``.
    """
    points: list[dict[str, Any]] = []
    men = CLOSE + sum(number for *_, number in GROUPS.values())
    total, done = len(READINGS) * len(ORDERS) * cohorts * men, 0
    for verdict_on, close_share in READINGS.items():
        for order in ORDERS:
            random = np.random.default_rng(seed)
            rows = []
            close = [("close", close_share)] * (CLOSE * cohorts)
            for group, share in _men(random, cohorts) + close:
                rows.append(
                    {"group": group, **_patient(random, share, order, crops, rates, verdict_on)}
                )
                done += 1
                if progress is not None:
                    progress(done, total)
            points.append(
                {
                    "verdict_on": verdict_on,
                    "order": order.name,
                    **_point([row for row in rows if row["group"] != "close"]),
                    "close_share": close_share,
                    "close": _point([row for row in rows if row["group"] == "close"]),
                }
            )
    return {
        "points": points,
        "rates": asdict(rates),
        "cohorts": cohorts,
        "crops": crops,
        "shard": ROW_GROUP,
        "slides": SLIDES,
        "seed": seed,
        "command": provenance.command(),
        "machine": provenance.machine(),
        "versions": provenance.versions(),
    }


def _men(random: Generator, cohorts: int) -> list[tuple[str, float]]:
    """Group and counted share of every man."""
    men = []
    for group, (mean, error, number) in GROUPS.items():
        shares = _vary(random, mean, error * sqrt(number) / mean, cohorts * number)
        men += [(group, float(share)) for share in shares]
    return men


def _vary(random: Generator, mean: float, variation: float, number: int) -> Any:
    """So many shares from a beta distribution of this mean and coefficient of variation.

    A share close to 1 cannot vary by much: then it varies by 0.9 of what it can.
    """
    if variation == 0 or not 1e-6 < mean < 1 - 1e-6:
        return np.full(number, mean)
    variation = min(variation, 0.9 * sqrt((1 - mean) / mean))
    size = (1 - mean) / (mean * variation**2) - 1
    return random.beta(mean * size, (1 - mean) * size, number)


def _patient(
    random: Generator,
    share: float,
    order: Order,
    crops: int,
    rates: Adaptive,
    verdict_on: VerdictOn,
) -> dict[str, Any]:
    """One patient scored adaptively and in full."""
    layout, found = _labels(random, share, order, crops)
    rounds = Rounds(layout, [MODEL], rates, verdict_on)
    looks = 0
    while batch := rounds.next():
        looks += 1
        for number in batch:
            rounds.add(number, found[number])
    counts = np.array([np.sum(list(shard.values()), axis=0) for shard in found])
    (k, n), (total, everything) = counts[sorted(rounds.looked_at)].sum(0), counts.sum(0)
    adaptive, full = verdicts([k, total], [n, everything], MODEL, verdict_on)
    real = float(rogan_gladen(share, ACCURACY)) if verdict_on == "prevalence" else share
    truth = VERDICTS["zona"][ABOVE if real > MODEL.threshold else BELOW]
    return {
        "saved": 1 - n / everything,
        "looks": looks,
        "full": full,
        "differs": adaptive != full,
        "wrong": adaptive not in (truth, INDETERMINATE),
        "full_wrong": full not in (truth, INDETERMINATE),
    }


def _labels(random: Generator, share: float, order: Order, crops: int) -> tuple[Any, Any]:
    """A patient's shards: crops by slide, and positive and scored crops by slide."""
    slides = np.arange(crops) * SLIDES // crops
    by_slide = _vary(random, share, order.slides, SLIDES)
    layout, found = [], []
    for start in range(0, crops, ROW_GROUP):
        own, sizes = np.unique(slides[start : start + ROW_GROUP], return_counts=True)
        layout.append({(PATIENT, str(slide)): int(n) for slide, n in zip(own, sizes, strict=True)})
        counts = {}
        for slide, n in zip(own.tolist(), sizes.tolist(), strict=True):
            here = _vary(random, by_slide[slide], order.shards, 1)[0]
            counts[PATIENT, str(slide), MODEL.name] = (int(random.binomial(n, here)), n)
        found.append(counts)
    return layout, found


def _point(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means with their 95% intervals.

    Returns:
        ``patients``; ``saved`` (share of crops not scored), ``saved_ci`` and ``saved_by_group``;
        ``rounds``, their mean; ``differs``, ``wrong`` and ``full_wrong``, shares of patients whose
        verdict is not that of full scoring, or on the wrong side of the truth (of the adaptive and
        of the full one), each with ``_n`` and ``_ci``; ``indeterminate``, of full scoring.
    """
    saved = np.array([row["saved"] for row in rows])
    half = 1.96 * float(saved.std(ddof=1)) / sqrt(len(saved))
    mean = float(saved.mean())
    groups = {
        group: float(np.mean([row["saved"] for row in rows if row["group"] == group]))
        for group in dict.fromkeys(row["group"] for row in rows)
    }
    point: dict[str, Any] = {
        "patients": len(rows),
        "saved": mean,
        "saved_ci": [mean - half, mean + half],
        "saved_by_group": groups,
        "rounds": float(np.mean([row["looks"] for row in rows])),
        "indeterminate": float(np.mean([row["full"] == INDETERMINATE for row in rows])),
    }
    for name in ("differs", "wrong", "full_wrong"):
        n = sum(row[name] for row in rows)
        limits = wilson(n, len(rows))
        point[name] = n / len(rows)
        point |= {f"{name}_n": n, f"{name}_ci": [float(limits.low), float(limits.high)]}
    return point
