"""How trials share a cluster, and the Tune study that they run in.

A trial of one worker runs in an actor that the next trial takes over. Tune's own files go to a
folder that is thrown away: what a study knows lies in its own records.
"""

from __future__ import annotations

import ctypes
import gc
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from ray import PlacementGroupID, tune
from ray.util.placement_group import PlacementGroup, remove_placement_group

from fertiray import work
from fertiray.errors import InputError
from fertiray.on_ray.cluster import cpus_per_worker, resources
from fertiray.on_ray.telemetry import export_worker
from fertiray.on_ray.trial_metrics import TrialMetrics
from fertiray.tuning.trials import Wanted

# Takes a trial's values, why it cannot be trained, and what it crashed with; None for nothing.
Ended = Callable[[Mapping[str, Any], str | None, str | None], None]

GROUP = "group"  # in what a trial of several workers reports: id of their placement group
# Of a trial whose workers have the resources: Tune wants it to take something.
DRIVER = {"CPU": 0.0, "memory": 1e6}


@dataclass(frozen=True)
class Slots:
    """How trials share a cluster.

    Attributes:
        concurrent: trials at a time.
        resources: that Ray sets aside for each.
        threads: of torch in each.
        device: ``cpu`` or ``cuda``.
        workers: training processes of each.
        trainer: whether those are a TorchTrainer's, which takes the resources, or the trial itself.
    """

    concurrent: int
    resources: dict[str, float]
    threads: int
    device: str
    workers: int
    trainer: bool

    @classmethod
    def of(cls, wanted: Wanted, trials: int, *, trainer: bool = False) -> Slots:
        """The slots of the cluster that is connected.

        Args:
            wanted: what the user asked for.
            trials: how many there are to run.
            trainer: a TorchTrainer for trials of one worker too.

        Raises:
            InputError: more GPUs than there are.
        """
        cpus = float(resources().get("CPU", 1))
        gpus = float(resources().get("GPU", 0))
        if trainer or wanted.workers > 1:
            # Where the workers go is the trainer's business; here only as many as will fit.
            fit = int((gpus or cpus) // wanted.workers)
            concurrent = max(1, min(wanted.concurrent or fit, trials))
            return cls(concurrent, DRIVER, 1, "cuda" if gpus else "cpu", wanted.workers, True)
        share = wanted.gpus
        if share is None and gpus:
            share = min(1.0, gpus / (wanted.concurrent or gpus))
        if share and share > gpus:
            raise InputError(f"--gpus-per-trial {share:g}: the cluster has {gpus:g}")
        fit = int(gpus / share + 1e-6) if share else int(cpus)
        concurrent = max(1, min(wanted.concurrent or fit, trials))
        own = {"CPU": cpus_per_worker(concurrent), **({"GPU": share} if share else {})}
        threads = max(1, int(cpus // concurrent))
        return cls(concurrent, own, threads, "cuda" if share else "cpu", 1, False)


def run_tune(
    trainable: Callable[[dict[str, Any], dict[str, Any]], None],
    job: dict[str, Any],
    space: dict[str, Any],
    slots: Slots,
    ended: Ended,
    **options: Any,
) -> None:
    """Runs a Tune study that leaves nothing behind.

    Crashed trials are not tried again here: Tune would do so only with those that were running, not
    with one whose actor dies as it starts.

    Args:
        trainable: a trial: called with its values of the space and with the job.
        job: what all trials share; goes through the object store once.
        space: that Tune draws from.
        slots: how trials share the cluster.
        ended: called in this process as each trial ends.
        options: more of ``tune.TuneConfig``.
    """
    for variable, value in (
        ("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1"),  # a file of every epoch of every trial
        ("TUNE_DISABLE_SIGINT_HANDLER", "1"),  # Ctrl-C is the command's
        ("TUNE_PRINT_ALL_TRIAL_ERRORS", "0"),
    ):
        os.environ.setdefault(variable, value)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    follow = _Follow(ended, sys.stdout)
    with (
        tempfile.TemporaryDirectory(prefix="fertiray-tune-") as folder,
        redirect_stdout(io.StringIO()),  # Tune's heading, silent as it is told to be
        work.job("tune"),
    ):
        tune.Tuner(
            tune.with_resources(tune.with_parameters(trainable, job=job), slots.resources),
            param_space=space,
            tune_config=tune.TuneConfig(
                reuse_actors=not slots.trainer,
                max_concurrent_trials=slots.concurrent,
                **options,
            ),
            run_config=tune.RunConfig(
                name="study",
                storage_path=folder,
                verbose=0,
                callbacks=[follow, TrialMetrics()],
            ),
        ).fit()


class _Follow(tune.Callback):  # type: ignore[misc]
    """Tells of each trial's end, with what is printed meanwhile on ``stdout``."""

    def __init__(self, ended: Ended, stdout: TextIO) -> None:
        self.ended, self.stdout = ended, stdout

    def __getstate__(self) -> dict[str, Any]:
        # Tune keeps a copy of its study that nobody reads; a progress bar cannot be copied.
        return {}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        _free(trial)
        with redirect_stdout(self.stdout):
            self.ended(trial.config, (trial.last_result or {}).get("refused"), None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        _free(trial)
        with redirect_stdout(self.stdout):
            self.ended(trial.config, None, _error(trial))


def _free(trial: Any) -> None:
    """Gives back what the workers of a trial had.

    A trial that is stopped early leaves its TorchTrainer's placement group behind. Ray Train finds
    that out by itself where the cluster has a dashboard; without one nobody does, and the next
    trial would wait for ever.
    """
    group = (trial.last_result or {}).get(GROUP)
    if group is not None:
        remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(group)))


def _error(trial: Any) -> str:
    """What went wrong last, in one line; Tune keeps it in a text file."""
    text = Path(trial.error_file).read_text().rpartition("Failure # ")[2]
    if "The actor died" in text:
        return "its process died"
    return [line for line in text.splitlines() if line.strip()][-1].strip()


def settle(slots: Slots) -> None:
    """Makes a process fit for a trial; many trials go through one."""
    export_worker()
    torch.set_num_threads(slots.threads)
    # Arrays of the object store are read-only, and nobody writes to them.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "60"  # for a stopped trial to leave its epoch
    # What the trial before has freed goes back to the system: glibc kept 500 MB of it.
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    if slots.device == "cuda":
        torch.cuda.empty_cache()
