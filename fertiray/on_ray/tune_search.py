"""Searches with Ray Tune: random or TPE parameters, and ASHA that stops poor trials early.

ASHA (Li et al. 2020) hears of every epoch. It is told again of the epochs of earlier calls, and so
is TPE, which is all that there is to going on with an interrupted search.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler

from fertiray import config, storage
from fertiray.errors import InputError
from fertiray.on_ray.cluster import cluster
from fertiray.on_ray.slots import Slots, run_tune, settle
from fertiray.on_ray.tune import RETRIES, Telling, kept, tell_crashes, train_inside
from fertiray.tuning.cells import Between, OneOf
from fertiray.tuning.search import OVER, Search
from fertiray.tuning.searching import Algorithm
from fertiray.tuning.trials import Wanted
from fertiray.tuning.views import View

REDUCTION = 3  # one of so many trials goes on past each rung


class SearchOnRay:
    """Runs the trials of a search; see :class:`fertiray.tuning.searching.Searcher`.

    Args:
        wanted: what each trial may have.
        address: Ray cluster; None for the job's own or a local one.
    """

    def __init__(self, wanted: Wanted, address: str | None = None) -> None:
        self.wanted, self.address = wanted, address

    def __call__(
        self,
        search: Search,
        view: View,
        *,
        trials: int,
        seed: int,
        algorithm: Algorithm,
        report: Callable[[str | None], None],
    ) -> dict[str, str]:
        """See ``Searcher``."""
        told = {record.place for record in search.records() if record.status in OVER}

        def ended(place: str) -> None:
            if place not in told:
                told.add(place)
                report(None)

        with cluster(self.address, quiet=True):
            slots = Slots.of(self.wanted, trials)
            job = {"search": search, "seed": seed, "view": ray.put(view), "slots": slots}
            for again in range(RETRIES, -1, -1):
                crashed = _round(job, trials, algorithm, ended)
                search.close(crashed)
                if not crashed:
                    break
                if again:
                    tell_crashes([*crashed.values()])
        for error in crashed.values():
            report(error)
        for record in search.records():
            if record.place not in crashed:  # a trial that was stopped has left its state
                storage.remove(kept(record.place))
        return {place: f"crashed {RETRIES + 1} times: {error}" for place, error in crashed.items()}


def _round(
    job: dict[str, Any], trials: int, algorithm: Algorithm, ended: Callable[[str], None]
) -> dict[str, str]:
    """Runs the trials that are not over yet once; what crashed, by the place of its record."""
    search: Search = job["search"]
    crashed: dict[str, str] = {}

    def heard(values: Mapping[str, Any], refused: str | None, crash: str | None) -> None:
        place = search.place(_parameters(values, search, job["seed"]))
        if crash is None:
            ended(place)
        else:
            crashed[place] = crash

    asha = AsyncHyperBandScheduler(
        time_attr="epoch",
        metric="value",
        mode=search.space.mode,
        max_t=search.base.epochs,
        grace_period=min(search.space.grace, search.base.epochs),
        reduction_factor=REDUCTION,
        stop_last_trials=False,  # they end by themselves
    )
    options: dict[str, Any] = {"scheduler": asha}
    space: dict[str, Any] = {}
    if algorithm == "tpe":
        options |= {"search_alg": _optuna(search, job["seed"]), "num_samples": trials}
    else:
        space = {"number": tune.grid_search([*range(trials)])}
    run_tune(_search_trial, job, space, job["slots"], heard, **options)
    return crashed


def _search_trial(values: dict[str, Any], job: dict[str, Any]) -> None:
    """A trial of a search."""
    search: Search = job["search"]
    slots: Slots = job["slots"]
    parameters = _parameters(values, search, job["seed"])
    if not slots.trainer:
        settle(slots)
        search.run(parameters, ray.get(job["view"]), tune.report, device=slots.device)
        return
    record = search.open(parameters)
    search.replay(record, tune.report)
    if record.status in OVER:
        return
    shared = {"search": search, "parameters": parameters, "view": job["view"]}
    train_inside(_search_worker, shared, slots, record.place)
    record = search.open(parameters)
    if record.status == "refused":
        tune.report({"epoch": len(record.lines) + 1, "value": search.worst})


def _search_worker(job: dict[str, Any]) -> None:
    """One of several workers of a trial of a search."""
    worker = Telling()
    job["search"].run(
        job["parameters"],
        ray.get(job["view"]),
        worker.says.update,
        device=worker.device,
        worker=worker.listening,
        keep=worker.rank == 0,
    )


def _parameters(values: Mapping[str, Any], search: Search, seed: int) -> dict[str, Any]:
    """A trial's parameters: drawn by its number, or as the sampler suggests them."""
    if "number" in values:
        return search.space.draw(values["number"], seed)
    return {name: values[name] for name in search.space.domains}


def _optuna(search: Search, seed: int) -> Any:
    """Optuna's TPE; what is known already is suggested first, and its trials only tell it again."""
    try:
        import optuna
        from ray.tune.search.optuna import OptunaSearch
    except ImportError as error:
        raise InputError(
            "--algorithm tpe: needs Optuna: pip install 'fertiray[search]', or use asha"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def distribution(domain: Between | OneOf) -> Any:
        if isinstance(domain, OneOf):
            return optuna.distributions.CategoricalDistribution(domain.values)
        return optuna.distributions.FloatDistribution(domain.low, domain.high, log=domain.log)

    known = search.records()
    # Not the same draws again where an earlier call has made some.
    drawn = int(config.digest([seed, len(known)]), 16) % 2**32
    return OptunaSearch(
        {name: distribution(domain) for name, domain in search.space.domains.items()},
        metric="value",
        mode=search.space.mode,
        points_to_evaluate=[record.parameters for record in known],
        sampler=optuna.samplers.TPESampler(seed=drawn),
    )
