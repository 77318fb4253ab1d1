"""Bulk scoring with Ray Data: shards in, an actor pool of ShardScorers, results on disk.

The stream carries the names of row groups, not images: the actor that scores a row group reads it,
decodes it and writes its results. So no pixel passes through the object store, the memory of a run
does not grow with the cohort, and an actor that dies costs the one shard it was working on.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext

from fertiray.data.crops import RowGroup
from fertiray.errors import InputError
from fertiray.on_ray.cluster import cluster, cpus_per_worker, resources
from fertiray.on_ray.telemetry import export_worker
from fertiray.scoring.engine import Choice, choose_engines
from fertiray.scoring.shards import ScoringJob, ShardResult, ShardScorer


class _Actor:
    """A ShardScorer as Ray Data calls it: columns of row groups in, columns of results out."""

    def __init__(self, job: ScoringJob) -> None:
        export_worker()
        self.score_shard = ShardScorer(job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        columns = [batch[field.name].tolist() for field in dataclasses.fields(RowGroup)]
        groups = [RowGroup(*values) for values in zip(*columns, strict=True)]
        return {"result": [self._result(group) for group in groups]}

    def _result(self, group: RowGroup) -> str:
        """JSON of the shard's result, or of what is wrong with the store: Ray loses error types."""
        try:
            return json.dumps(dataclasses.asdict(self.score_shard(group)))
        except InputError as error:
            return json.dumps({"unusable": str(error)})


def score_on_ray(
    job: ScoringJob,
    groups: Sequence[RowGroup],
    workers: int,
    report: Callable[[ShardResult], None],
    *,
    address: str | None = None,
) -> None:
    """Scores row groups on a pool of ``workers`` actors.

    Args:
        job: what to score.
        groups: the row groups to do.
        workers: actors.
        report: called in this process as shards are finished, in no fixed order.
        address: Ray cluster; None for the job's own or a local one.

    Raises:
        InputError: what a worker found unusable.
    """
    if not groups:
        return
    with cluster(address):
        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.max_errored_blocks = 0
        gpus = float(resources().get("GPU", 0)) if job.device != "cpu" else 0.0
        results = ray.data.from_items(
            [dataclasses.asdict(group) for group in groups], override_num_blocks=len(groups)
        ).map_batches(
            _Actor,
            fn_constructor_args=(job,),
            batch_size=1,
            compute=ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
            num_cpus=cpus_per_worker(workers),
            num_gpus=min(1.0, gpus / workers) if gpus else None,
        )
        with closing(iter(results.iter_rows())) as rows:  # before Ray is left, whatever happens
            for row in rows:
                result = json.loads(row["result"])
                if "unusable" in result:
                    raise InputError(result["unusable"])
                report(ShardResult(**result))


def choose_on_ray(
    folders: Sequence[str], engine: str, device: str, crops: Sequence[bytes]
) -> tuple[Choice, ...]:
    """:func:`fertiray.scoring.engine.choose_engines` where a worker would run.

    The driver may be a machine without the workers' GPU. Ray must be connected.
    """
    gpus = 1 if device != "cpu" and resources().get("GPU", 0) else 0
    task = ray.remote(num_cpus=1, num_gpus=gpus)(_choose)
    values = json.loads(ray.get(task.remote(tuple(folders), engine, device, list(crops))))
    if "unusable" in values:
        raise InputError(values["unusable"])
    return tuple(Choice(row["engine"], tuple(row["tried"])) for row in values["choices"])


def _choose(folders: Sequence[str], engine: str, device: str, crops: Sequence[bytes]) -> str:
    try:
        found = choose_engines(folders, engine, device, crops)
    except InputError as error:
        return json.dumps({"unusable": str(error)})
    return json.dumps({"choices": [dataclasses.asdict(choice) for choice in found]})
