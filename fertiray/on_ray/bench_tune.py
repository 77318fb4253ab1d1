"""``fertiray bench tune``: trials an hour of a study, beside the plain loop and the usual way.

Trials that each train one small network do not depend on each other, so p processes that do nothing
but train get through 3600 p / w of them an hour, w seconds of work each: that is the ceiling, and
the plain loop measures it. A study adds what each trial costs beside its work. A TorchTrainer for
each trial starts a controller and a worker that imports torch, every time; an actor that stays
starts once. What is measured is that fixed cost; the ratio of two ways follows from it for trials
of any length L: (L + fixed of the one) / (L + fixed of the other), which goes to 1 as L grows.

All sides run the same trials on the same cores, one thread each and with the niceness that Ray
gives its workers, one after the other in one run, the plain loop before and after the others.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from fertiray import provenance, storage
from fertiray.data.synthetic import synth_crops
from fertiray.on_ray.cluster import cluster
from fertiray.on_ray.tune import OnRay
from fertiray.papers import PAPERS
from fertiray.tuning.cells import Cell
from fertiray.tuning.trials import Trial, Wanted, cell_settings, plan
from fertiray.tuning.views import View, Views

LENGTHS = (1, 10, 60, 600)  # seconds of work, for which the ratio is worked out
FOLDS = 4


def bench_tune(
    *,
    trials: int = 24,
    trainer_trials: int = 4,
    epochs: int = 10,
    crops: int = 30,
    concurrent: int | None = None,
    address: str | None = None,
) -> dict[str, Any]:
    """Measures trials an hour of single-worker trials on this machine's CPUs.

    Args:
        trials: of the plain loop and of a study.
        trainer_trials: of the way with a TorchTrainer in each.
        epochs: of each trial, of the small CNN at 32 pixels; more make longer trials.
        crops: of each of eight synthetic men, for the trials to learn from.
        concurrent: trials at a time; by default one a core.
        address: Ray cluster; None for the job's own or a local one.

    Returns:
        For ``plain_loop``, ``ours`` and ``torch_trainer`` ``trials_per_hour``, ``seconds``,
        ``trials`` and, but for the first, ``first_s`` (until the first trial has ended, with the
        start of actors), ``later_trials_per_hour`` (the rate from then on) and ``fixed_s`` (a
        trial's cost beside its work, the start shared by all);
        ``work_s``, seconds of work of a trial, one core busy with it;
        ``ratio_to_plain`` and ``ratio_to_torch_trainer`` of ours, and ``ratio_at``, the second one
        worked out for trials of other lengths; ``concurrent``, ``niceness``, ``command``,
        ``machine``, ``versions``.
    """
    paper = PAPERS["zona_vgg13"]
    settings = [f"epochs={epochs}", "preprocessing.size=32", "batch_size=16"]
    recipe = cell_settings(paper, Cell("bench", "basic_cnn"), settings, from_scratch=False)
    with (
        tempfile.TemporaryDirectory(prefix="fertiray-bench-") as folder,
        cluster(address, quiet=True),
    ):
        data = str(Path(folder, "data"))
        synth_crops(Path(data), patients=8, crops=crops, seed=0, fractions=0.5)
        views = Views(paper, data, None, aspects=False)
        view = views(recipe)
        together = concurrent or int(ray.cluster_resources().get("CPU", 1))
        niceness: int = ray.get(ray.remote(num_cpus=0)(_niceness).remote())

        def planned(side: str, count: int) -> list[Trial]:
            found = plan(
                paper,
                [(Cell("bench", "basic_cnn"), recipe)],
                storage.join(folder, side),
                data_digest=view.crops.digest,
                held_out_digest=None,
                folds=FOLDS,
                repeats=-(-count // FOLDS),
                seed=0,
            )
            return found[:count]

        before = _plain(planned("before", trials), view, together, niceness)
        wanted = Wanted(concurrent=together)
        ours = _on_ray(OnRay(wanted), planned("ours", trials), views)
        usual = _on_ray(OnRay(wanted, trainer=True), planned("usual", trainer_trials), views)
        after = _plain(planned("after", trials), view, together, niceness)
    work = float(np.median(before["each"] + after["each"]))
    plain = _rate(trials, (before["seconds"] + after["seconds"]) / 2)
    sides = {
        name: {**side, "fixed_s": together * 3600 / side["trials_per_hour"] - work}
        for name, side in (("ours", ours), ("torch_trainer", usual))
    }
    fixed = {name: max(0.0, side["fixed_s"]) for name, side in sides.items()}
    return {
        "plain_loop": plain,
        **sides,
        "work_s": work,
        "ratio_to_plain": ours["trials_per_hour"] / plain["trials_per_hour"],
        "ratio_to_torch_trainer": ours["trials_per_hour"] / usual["trials_per_hour"],
        "ratio_at": {
            str(length): (length + fixed["torch_trainer"]) / (length + fixed["ours"])
            for length in LENGTHS
        },
        "concurrent": together,
        "niceness": niceness,
        "settings": settings,
        "crops": len(view.crops.names),
        "command": provenance.command(),
        "machine": provenance.machine(),
        "versions": provenance.versions(),
    }


def _niceness() -> int:
    return os.nice(0)


def _rate(trials: int, seconds: float) -> dict[str, Any]:
    return {"trials_per_hour": 3600 * trials / seconds, "seconds": seconds, "trials": trials}


def _on_ray(executor: OnRay, trials: Sequence[Trial], views: Views) -> dict[str, Any]:
    """A study's trials, from its start to its end."""
    began = time.perf_counter()
    ends: list[float] = []

    def report(trial: Trial, error: str | None) -> None:
        if error is not None:
            raise RuntimeError(f"a trial of the measurement failed: {error}")
        ends.append(time.perf_counter() - began)

    executor.trials(trials, views, report)
    later = ends[-1] - ends[0]
    return {
        **_rate(len(trials), time.perf_counter() - began),
        "first_s": ends[0],
        "later_trials_per_hour": 3600 * (len(ends) - 1) / later if later else None,
    }


def _plain(trials: Sequence[Trial], view: View, processes: int, niceness: int) -> dict[str, Any]:
    """The same trials in plain processes that have imported everything and trained once."""
    context = get_context("spawn")
    ready = (view, niceness, trials[0], context.Barrier(processes))
    with ProcessPoolExecutor(processes, context, _ready, ready) as pool:
        for waiting in [pool.submit(os.getpid) for _ in range(processes)]:
            waiting.result()
        began = time.perf_counter()
        each = list(pool.map(_one, trials))
        return {"seconds": time.perf_counter() - began, "each": each}


_view: View | None = None


def _ready(view: View, niceness: int, trial: Trial, barrier: Barrier) -> None:
    """Makes a plain process like one of Ray's, and waits for the others."""
    global _view
    os.nice(max(0, niceness - os.nice(0)))
    torch.set_num_threads(1)
    _view = view
    _one(dataclasses.replace(trial, folder=f"{trial.folder}-{os.getpid()}"))
    barrier.wait()


def _one(trial: Trial) -> float:
    assert _view is not None
    began = time.perf_counter()
    trial.run(_view)
    return time.perf_counter() - began
