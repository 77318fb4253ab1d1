"""What a paper's file holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fertiray.checkpoint import Task
from fertiray.errors import InputError
from fertiray.training.config import TrainConfig
from fertiray.tuning.cells import Grid, Space


@dataclass(frozen=True)
class Paper:
    """A published study as this project runs it.

    Attributes:
        name: the paper's key, as in ``fertiray train NAME``.
        citation: authors, title, journal, year.
        task: what a patient's fraction means.
        known: class names by task, in the order of the logits; one task called ``class`` where
            there is only one.
        positive: the classes that the fraction counts, one for each data set.
        models: recipe by name; the first one is the default.
        grids: its ablations, by the name of ``fertiray tune --grid``.
        spaces: what to search, by the name of ``fertiray tune --search``.
    """

    name: str
    citation: str
    task: Task
    known: Mapping[str, tuple[str, ...]]
    positive: tuple[str, ...]
    models: dict[str, TrainConfig]
    grids: dict[str, Grid] = field(default_factory=dict)
    spaces: dict[str, Space] = field(default_factory=dict)

    def config(self, model: str | None = None) -> TrainConfig:
        """The recipe of a model, the paper's own by default.

        Raises:
            InputError: the paper has no such model.
        """
        name = model or next(iter(self.models))
        if name not in self.models:
            raise InputError(
                f"--model {name}: {self.name} has no such model;"
                f" choose one of: {', '.join(self.models)}"
            )
        return self.models[name]
