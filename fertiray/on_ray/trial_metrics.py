"""Metrics of a study of Ray Tune: how many trials are pending, running, done and failed."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ray import tune

from fertiray import telemetry, work


class TrialMetrics(tune.Callback):  # type: ignore[misc]
    """Tells how many trials of a study are pending, running, done and failed."""

    def __init__(self) -> None:
        self._ended: set[str] = set()

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Counts the trials in each state; Tune calls it after every event."""
        states = Counter(trial.status for trial in trials)
        telemetry.gauge("trials", states["PENDING"] + states["PAUSED"], state="pending")
        telemetry.gauge("trials", states["RUNNING"], state="running")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """See ``tune.Callback``."""
        self._over(trial, "done")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """See ``tune.Callback``."""
        self._over(trial, "failed")

    def _over(self, trial: Any, outcome: str) -> None:
        if trial.trial_id not in self._ended:
            self._ended.add(trial.trial_id)
            telemetry.count("trials_ended_total", outcome=outcome)
            work.progress("tune")
