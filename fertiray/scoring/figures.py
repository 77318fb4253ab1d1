"""Geometry of the report's drawings; the templates turn it into SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Okabe and Ito's colours, told apart with any colour vision; the positive class takes the first.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8A8A8A", "#F0E442")

STEPS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25)


@dataclass(frozen=True)
class Axis:
    """A horizontal axis of shares from 0.

    Attributes:
        high: share at the right end, in (0, 1].
        left: x of share 0, in SVG units.
        right: x of share ``high``.
        threshold: the clinical threshold, a share.
    """

    high: float
    left: float
    right: float
    threshold: float

    def x(self, share: float) -> float:
        """Where a share lies; those beyond the end lie on the end."""
        return round(self.left + (self.right - self.left) * min(share / self.high, 1.0), 1)

    @property
    def ticks(self) -> list[float]:
        """Round shares, at most seven of them."""
        step = next((step for step in STEPS if self.high / step <= 7), STEPS[-1])
        return [round(i * step, 4) for i in range(math.floor(self.high / step + 1e-9) + 1)]


def patient_axis(highest: float, threshold: float) -> Axis:
    """Wide enough for the patient's intervals, and never less than three thresholds."""
    return Axis(min(1.0, max(1.12 * highest, 3 * threshold)), 96.0, 700.0, threshold)


def cohort_axis(threshold: float) -> Axis:
    """The same for every patient, so that rows compare: the region in which the decision falls."""
    return Axis(4 * threshold, 4.0, 226.0, threshold)


def class_colours(classes: Sequence[str], positive: str) -> dict[str, str]:
    """A colour (``#rrggbb``) for every class; the positive class has the first of the palette."""
    order = [positive, *(name for name in classes if name != positive)]
    return {name: PALETTE[place % len(PALETTE)] for place, name in enumerate(order)}
