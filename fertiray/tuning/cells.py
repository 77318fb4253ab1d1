"""What a study is made of, as the papers' files declare it: cells, grids and search spaces."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

Value = int | float | str | bool


@dataclass(frozen=True)
class Cell:
    """One configuration of a grid.

    Attributes:
        name: of its line in the table.
        model: the paper's recipe that it starts from.
        settings: ``key=value`` changes of that recipe.
        reported: the paper's own row, a key of :mod:`fertiray.papers.reported`; None where it has
            none. Of a network for several tasks the key before the task.
    """

    name: str
    model: str
    settings: tuple[str, ...] = ()
    reported: str | None = None


@dataclass(frozen=True)
class Grid:
    """Configurations that are compared on the same folds, each with the first.

    Attributes:
        about: what is varied, and where the paper has it.
        cells: in the order of the table.
        sweep: the setting that the cells step through, such as ``lr``; None where they differ
            otherwise.
        efficiency: measure parameters, training memory and latency of each cell too.
        metric: the best cell has the highest mean of it.
    """

    about: str
    cells: tuple[Cell, ...]
    sweep: str | None = None
    efficiency: bool = False
    metric: str = "macro_f1"


@dataclass(frozen=True)
class Between:
    """A number of a range.

    Attributes:
        low: smallest.
        high: largest.
        log: even on a logarithmic scale.
    """

    low: float
    high: float
    log: bool = False

    def at(self, share: float) -> float:
        """The value at a share of the range in [0, 1), to six digits."""
        if self.log:
            value = math.exp(math.log(self.low) + share * math.log(self.high / self.low))
        else:
            value = self.low + share * (self.high - self.low)
        return float(f"{value:.6g}")


@dataclass(frozen=True)
class OneOf:
    """One of some values."""

    values: tuple[Value, ...]

    def at(self, share: float) -> Value:
        """The value at a share of the list in [0, 1)."""
        return self.values[int(share * len(self.values))]


@dataclass(frozen=True)
class Space:
    """Where a search looks.

    Attributes:
        about: what is searched.
        model: the paper's recipe that it starts from.
        domains: by setting, such as ``loss.gamma``.
        settings: ``key=value`` changes of the recipe that all trials share.
        metric: of the validation part, that trials are compared by.
        grace: epochs that each trial is given before it may be stopped.
    """

    about: str
    model: str
    domains: Mapping[str, Between | OneOf]
    settings: tuple[str, ...] = ()
    metric: Literal["validation_loss", "validation_accuracy", "validation_macro_f1"] = (
        "validation_loss"
    )
    grace: int = 5

    @property
    def mode(self) -> Literal["min", "max"]:
        """Whether a lower or a higher value of the metric is better."""
        return "min" if self.metric == "validation_loss" else "max"

    def draw(self, number: int, seed: int) -> dict[str, Value]:
        """The parameters of a random trial: the same for the same number and seed.

        Args:
            number: of the trial, from 0.
            seed: of the search.
        """
        shares = np.random.default_rng([seed, number]).random(len(self.domains))
        return {
            name: domain.at(share)
            for (name, domain), share in zip(self.domains.items(), shares.tolist(), strict=True)
        }
