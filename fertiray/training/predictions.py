"""Labelled images with what a network says about them: their metrics and their table.

Shapes: M images, T tasks, K_t classes of task t.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fertiray.data.labelled import UNLABELLED, LabelledCrops
from fertiray.evaluation.metrics import day_rule, measure, within
from fertiray.models.predict import call

DAY = "day"


@dataclass(frozen=True)
class Predictions:
    """Images with their true classes and probabilities.

    Attributes:
        names: M.
        patients: M, None where unknown.
        groups: M; what the bootstrap draws together.
        facets: M values each, such as the day.
        tasks: class names by task, in the order of the logits.
        truth: M x T indices into ``tasks``; ``UNLABELLED`` where not graded.
        probabilities: M x K_t by task.
        positive: the positive class of the first task; the others have none.
        threshold: of the positive class.
    """

    names: tuple[str, ...]
    patients: tuple[str | None, ...]
    groups: NDArray[np.int64]
    facets: Mapping[str, tuple[str, ...]]
    tasks: Mapping[str, tuple[str, ...]]
    truth: NDArray[np.int64]
    probabilities: Mapping[str, NDArray[np.floating[Any]]]
    positive: str
    threshold: float

    @classmethod
    def of(
        cls,
        crops: LabelledCrops,
        picked: NDArray[np.int64],
        tasks: Mapping[str, tuple[str, ...]],
        truth: NDArray[np.int64],
        probabilities: Mapping[str, NDArray[np.floating[Any]]],
        positive: str,
        threshold: float,
    ) -> Predictions:
        """Those of some of the crops, without their pixels.

        Args:
            crops: the data.
            picked: M indices into them.
            tasks: see the attributes, as all others.
            truth: M x T.
            probabilities: M x K_t by task.
            positive: of the first task.
            threshold: of the positive class.
        """
        return cls(
            tuple(crops.names[i] for i in picked),
            tuple(crops.patients[i] for i in picked),
            crops.groups[picked],
            {name: tuple(values[i] for i in picked) for name, values in crops.facets.items()},
            tasks,
            truth,
            probabilities,
            positive,
            threshold,
        )

    def positive_of(self, task: str) -> str | None:
        """The positive class of a task, if it has one."""
        return self.positive if task == next(iter(self.tasks)) else None

    def threshold_of(self, task: str) -> float | None:
        """The threshold that decides labels; None for the most probable class.

        It decides between two classes. Among more the most probable one is called, as the papers
        do.
        """
        two = len(self.tasks[task]) == 2 and self.positive_of(task) is not None
        return self.threshold if two else None

    def called(self, task: str) -> NDArray[np.int64]:
        """M called class indices of a task."""
        probabilities, threshold = self.probabilities[task], self.threshold_of(task)
        if threshold is None:
            return np.asarray(probabilities.argmax(1), np.int64)
        return call(probabilities, self.tasks[task].index(self.positive), threshold)

    def results(self, seed: int, *, resamples: int = 2000) -> dict[str, dict[str, Any]]:
        """Metrics by task, each over the images that are graded in it.

        Args:
            seed: of the bootstrap, which draws whole groups.
            resamples: of the bootstrap.

        Returns:
            :func:`fertiray.evaluation.metrics.measure` of each task, and where the images have
            facets ``within`` by facet and value; with the day of development and two classes also
            ``day_rule`` (``pooled`` and ``within``).
        """
        found = {}
        for number, (task, classes) in enumerate(self.tasks.items()):
            own = np.flatnonzero(self.truth[:, number] != UNLABELLED)
            if not len(own):
                continue
            truth, positive = self.truth[own, number], self.positive_of(task)
            probabilities = self.probabilities[task][own]
            how: dict[str, Any] = {
                "groups": self.groups[own],
                "seed": seed,
                "resamples": resamples,
            }
            arguments = (probabilities, truth, classes, positive, self.threshold_of(task))
            result = measure(*arguments, **how)
            facets = {
                name: [values[i] for i in own]
                for name, values in self.facets.items()
                if any(values)
            }
            if facets:
                result["within"] = {
                    name: within(values, *arguments, **how) for name, values in facets.items()
                }
            if DAY in facets and len(classes) == 2 and positive is not None:
                result["day_rule"] = _day_rule(facets[DAY], truth, classes, positive, **how)
            found[task] = result
        return found

    def operating(self) -> dict[str, Any] | None:
        """Sensitivity and specificity of the positive class at the threshold, as scoring calls.

        Returns:
            ``threshold``, ``sensitivity``, ``specificity`` and their ``ci``; None where no image is
            graded in the first task.
        """
        task = next(iter(self.tasks))
        graded = self.truth[:, 0] != UNLABELLED
        if not graded.any():
            return None
        found = measure(
            self.probabilities[task][graded],
            self.truth[graded, 0],
            self.tasks[task],
            self.positive,
            self.threshold,
            resamples=0,
        )
        names = ("sensitivity", "specificity")
        return {
            "threshold": self.threshold,
            **{name: found[name] for name in names},
            "ci": {name: found["ci"][name] for name in names},
        }

    def table(self) -> pl.DataFrame:
        """One row an image: ``name``, ``patient_id``, the facets, truth, call and probabilities.

        With one task the columns are ``truth``, ``predicted`` and ``p_<class>``; with several, the
        task stands in front of the class: ``truth_EXP``, ``predicted_EXP``, ``p_EXP_<class>``.
        """
        columns: dict[str, Any] = {
            "name": self.names,
            "patient_id": pl.Series(self.patients, dtype=pl.String),
            **self.facets,
        }
        for number, (task, classes) in enumerate(self.tasks.items()):
            end = _end(self.tasks, task)
            truth = [None if i == UNLABELLED else classes[i] for i in self.truth[:, number]]
            columns[f"truth{end}"] = pl.Series(truth, dtype=pl.String)
            columns[f"predicted{end}"] = [classes[i] for i in self.called(task)]
            for place, name in enumerate(classes):
                columns[f"p{end}_{name}"] = self.probabilities[task][:, place]
        return pl.DataFrame(columns)


def probabilities_in(
    table: pl.DataFrame, tasks: Mapping[str, tuple[str, ...]]
) -> dict[str, NDArray[np.float64]]:
    """The probabilities of a table that :meth:`Predictions.table` made, M x K_t by task."""
    return {
        task: table.select([f"p{_end(tasks, task)}_{name}" for name in classes]).to_numpy()
        for task, classes in tasks.items()
    }


def in_order_of(tasks: Mapping[str, tuple[str, ...]], crops: LabelledCrops) -> NDArray[np.int64]:
    """The data's class indices as a network's.

    Args:
        tasks: the network's class names by task.
        crops: data with some of these tasks and classes.

    Returns:
        N x T class indices; ``UNLABELLED`` for tasks that the data do not grade.
    """
    truth = np.full((len(crops.names), len(tasks)), UNLABELLED, np.int64)
    for number, (task, classes) in enumerate(tasks.items()):
        if task in crops.tasks:
            labels = crops.targets[:, list(crops.tasks).index(task)]
            places = np.array([classes.index(name) for name in crops.tasks[task]])
            graded = labels != UNLABELLED
            truth[graded, number] = places[labels[graded]]
    return truth


def _day_rule(
    days: Sequence[str],
    truth: NDArray[np.int64],
    classes: tuple[str, ...],
    positive: str,
    *,
    groups: NDArray[np.int64],
    seed: int,
    resamples: int,
) -> dict[str, Any]:
    """The rule over all images and within each day, where it calls all alike."""
    facet = np.asarray(days)

    def rule(own: NDArray[np.bool_]) -> dict[str, Any]:
        return day_rule(
            facet[own].tolist(),
            truth[own],
            classes,
            positive,
            groups=groups[own],
            seed=seed,
            resamples=resamples,
        )

    return {
        "pooled": rule(facet != ""),
        "within": {day: rule(facet == day) for day in sorted(set(days) - {""})},
    }


def _end(tasks: Mapping[str, tuple[str, ...]], task: str) -> str:
    return f"_{task}" if len(tasks) > 1 else ""
