"""``fertiray score``: a crop store in, a run folder out, and the books balanced."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from typing import Any, Protocol

from fertiray import checkpoint, config, parquet, provenance, storage, telemetry, work
from fertiray.data.crops import RowGroup, iter_batches, row_groups
from fertiray.errors import CountsError, InputError
from fertiray.scoring.adaptive import Adaptive
from fertiray.scoring.aggregate import VerdictOn, aggregate_run, write_tables
from fertiray.scoring.engine import AUTO, PROBE_CROPS, Choice, choose_engines
from fertiray.scoring.quality import write_quality
from fertiray.scoring.report import write_report
from fertiray.scoring.rounds import Rounds, read_counts, read_layout, with_skipped
from fertiray.scoring.scorer import unique_names
from fertiray.scoring.shards import ScoringJob, ShardResult, done_shards, peak_rss_mb, shard_name
from fertiray.scoring.timeline import TIMELINE, write_timeline
from fertiray.scoring.verdicts import ModelInfo

PLAN = "plan.json"
PROBE_GROUPS = 4
# Crops of a run that make up for the seconds that trying engines takes; fewer are scored eagerly.
WORTH_TRYING = 2048

# Checkpoints, engine asked for, device and encoded crops to how each checkpoint is executed.
Chooser = Callable[[Sequence[str], str, str, Sequence[bytes]], tuple[Choice, ...]]


class Runner(Protocol):
    """Scores row groups: in this process, or on Ray."""

    def __call__(
        self,
        job: ScoringJob,
        groups: Sequence[RowGroup],
        workers: int,
        report: Callable[[ShardResult], None],
    ) -> None:
        """Scores each row group and reports it, in any order."""
        ...


def score(
    job: ScoringJob,
    runner: Runner,
    *,
    workers: int,
    resume: bool = True,
    verdict_on: VerdictOn = "prevalence",
    adaptive: Adaptive | None = None,
    notes: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
    session: Callable[[], AbstractContextManager[None]] = nullcontext,
    choose: Chooser = choose_engines,
) -> dict[str, Any]:
    """Scores every crop of a store and writes tables, report and ``run.json``.

    A run that was interrupted goes on where it stopped: the shards whose scores are on disk are
    not scored again.

    Args:
        job: store, checkpoints and run folder.
        runner: ``score_locally`` or ``score_on_ray``.
        workers: threads or actors.
        resume: go on with a run of the same configuration; False starts it anew.
        verdict_on: see :func:`fertiray.scoring.aggregate.aggregate`.
        adaptive: error rates at which a patient's remaining crops are skipped once the verdict is
            decided, see :mod:`fertiray.scoring.adaptive`; None scores every crop.
        notes: warnings that the report shows in a prominent place.
        progress: called with crops done and crops in all.
        session: entered once the input is known to be usable, left when all is written: a
            connection to Ray, so that metrics of the finished run still go through it.
        choose: settles how the networks are executed, on a machine like the workers'.

    Returns:
        The fields of ``fertiray score --json``.

    Raises:
        InputError: an unusable store or checkpoint, or a run folder of another configuration.
        CountsError: rows in are not scored plus rejected plus skipped.
    """
    started, clock = provenance.now(), time.perf_counter()
    metas = [checkpoint.read_meta(folder) for folder in job.checkpoints]
    unique_names(metas)
    models = {meta.name: ModelInfo.from_meta(asdict(meta)) for meta in metas}
    groups = row_groups(job.store)
    rows_in = sum(group.rows for group in groups)
    follows = {**asdict(adaptive), "verdict_on": verdict_on} if adaptive else None
    _prepare(job, metas, groups, follows, resume=resume)
    rounds = None
    if adaptive is not None:
        layout = read_layout(job.store, groups)
        rounds = Rounds(layout, list(models.values()), adaptive, verdict_on)
    done = done_shards(job.out)
    finished = sum(group.rows for group in groups if shard_name(group) in done)
    results: list[tuple[float, ShardResult]] = []
    fresh = 0

    def report(result: ShardResult) -> None:
        nonlocal fresh
        results.append((time.time(), result))
        fresh += result.scored + result.rejected
        wanted = rows_in - (sum(rounds.skipped.values()) if rounds else 0)
        _tell(result, wanted - finished - fresh)
        if progress is not None:
            progress(finished + fresh, wanted)

    if progress is not None:
        progress(finished, rows_in)
    with session(), work.job("score"):
        choices = _engines(job, groups, choose)
        job = replace(job, engines=tuple(choice["engine"] for choice in choices))
        begun = time.perf_counter()

        def take(numbers: Iterable[int]) -> None:
            todo = [groups[n] for n in numbers if shard_name(groups[n]) not in done]
            if todo:
                runner(job, todo, workers, report)

        if rounds is None:
            take(range(len(groups)))
        else:
            while numbers := rounds.next():
                take(numbers)
                for n in numbers:
                    rounds.add(n, read_counts(job.out, shard_name(groups[n]), models))
        scoring_s = time.perf_counter() - begun
        write_timeline(job.out, results)
        counts = reconcile(job.out, groups, len(metas), rounds.looked_at if rounds else None)
        tables = aggregate_run(job.out, models, verdict_on=verdict_on)
        if rounds is not None:
            tables = with_skipped(tables, rounds.skipped)
        write_tables(job.out, tables)
        drift = write_quality(job.out, metas, tables.patients)
        seconds = time.perf_counter() - clock
        rate = round(fresh / scoring_s, 1) if fresh else None
        record = {
            "command": provenance.command(),
            "config": {
                **asdict(job),
                "workers": workers,
                "verdict_on": verdict_on,
                **({"adaptive": asdict(adaptive)} if adaptive else {}),
            },
            "models": [_model_record(meta) for meta in metas],
            "counts": counts,
            "timings": {
                "scoring_s": round(scoring_s, 3),
                "seconds": round(seconds, 3),
                "crops_this_run": fresh,
                "crops_per_s": rate,
            },
            "memory_mb": _memory([result for _, result in results]),
            "engine": "+".join(dict.fromkeys(job.engines)),
            "engines": choices,
            "drift": drift,
            "runner": getattr(runner, "__name__", type(runner).__name__),
            "versions": provenance.versions(),
            "commit": provenance.commit(),
            "machine": provenance.machine(),
            "notes": list(notes),
            "started": started,
            "finished": provenance.now(),
            "store": job.store,
        }
        _write_json(storage.join(job.out, "run.json"), record)
        page = write_report(job.out)
    return {
        **counts,
        "patients": tables.patients["patient_id"].n_unique(),
        "seconds": round(seconds, 3),
        "crops_per_s": rate,
        "resumed": finished,
        "memory_mb": record["memory_mb"],
        "run": job.out,
        "report": page,
    }


def _engines(job: ScoringJob, groups: Sequence[RowGroup], choose: Chooser) -> list[dict[str, Any]]:
    """How each network is executed, measured once a run and kept in its plan."""
    place = storage.join(job.out, PLAN)
    plan = config.read_object(place, "start anew with --no-resume")
    if not isinstance(plan.get("engines"), list):
        found = choose(job.checkpoints, job.engine, job.device, _probe(job, groups))
        plan["engines"] = [asdict(choice) for choice in found]
        _write_json(place, plan)
    engines: list[dict[str, Any]] = plan["engines"]
    return engines


def _probe(job: ScoringJob, groups: Sequence[RowGroup]) -> list[bytes]:
    """Crops to try engines on, the first ones of up to four row groups spread over the store."""
    if job.engine != AUTO or sum(group.rows for group in groups) < WORTH_TRYING:
        return []
    chosen = [groups[i * len(groups) // PROBE_GROUPS] for i in range(PROBE_GROUPS)]
    rows = -(-PROBE_CROPS // PROBE_GROUPS)
    crops: list[bytes] = []
    for group in dict.fromkeys(chosen):
        batch = next(iter_batches(job.store, group, ["image"], rows))
        crops += [image or b"" for image in batch.column("image").to_pylist()]
    return crops


def _tell(result: ShardResult, waiting: int) -> None:
    """The metrics of a shard that is done, which this process counts once and nobody else."""
    telemetry.count("crops_scored_total", result.scored, kind="score")
    for stage, number in result.rejects.items():
        telemetry.count("crops_rejected_total", number, kind="score", stage=stage)
    telemetry.gauge("queue_crops", waiting, kind="score")
    work.progress("score")


def _prepare(
    job: ScoringJob,
    metas: Sequence[checkpoint.Meta],
    groups: Sequence[RowGroup],
    adaptive: dict[str, Any] | None,
    *,
    resume: bool,
) -> None:
    """Makes the run folder, or checks that the one there is of the same configuration."""
    plan = {
        "store": config.digest([asdict(group) for group in groups]),
        "models": {meta.name: config.digest(meta) for meta in metas},
        "engine": job.engine,
        "adaptive scoring": adaptive,
    }
    place = storage.join(job.out, PLAN)
    if not resume:
        for part in ("scores", "rejects", "gallery", TIMELINE, PLAN, "run.json"):
            storage.remove(storage.join(job.out, part))
    if storage.exists(place):
        found = config.read_object(place, "start anew with --no-resume")
        different = [key for key in plan if found.get(key) != plan[key]]
        if different:
            raise InputError(
                f"{job.out}: holds a run with another {' and '.join(different)}; choose another"
                " --out, or start anew with --no-resume"
            )
    elif done_shards(job.out):
        raise InputError(f"{job.out}: holds scores without {PLAN}; choose another --out")
    else:
        _write_json(place, plan)


def reconcile(
    out: str, groups: Sequence[RowGroup], models: int, looked_at: Set[int] | None = None
) -> dict[str, int]:
    """Counts what is on disk: ``rows_in``, ``scored``, ``rejected``, adaptively ``skipped`` too.

    Args:
        out: run folder.
        groups: all row groups of the store.
        models: how many scored them.
        looked_at: numbers of those that were to be scored, where not all were.

    Raises:
        CountsError: a shard whose rows in are not scored plus rejected, or one that was skipped and
            has scores; the message names it.
    """
    scored = rejected = skipped = 0
    for number, group in enumerate(groups):
        shard = shard_name(group)
        own = _rows(storage.join(out, "scores", f"{shard}.parquet"))
        lost = _rows(storage.join(out, "rejects", f"{shard}.parquet"))
        if looked_at is not None and number not in looked_at:
            if own or lost:
                raise CountsError(
                    f"{out}: shard {shard} was to be skipped, but has {own} score rows and {lost}"
                    " rejects; run again with --no-resume"
                )
            skipped += group.rows
            continue
        if own != models * (group.rows - lost):
            raise CountsError(
                f"{out}: shard {shard} has {group.rows} rows in, but {own} score rows of"
                f" {models} models and {lost} rejects; run again with --no-resume"
            )
        scored += own // models
        rejected += lost
    counts = {"rows_in": scored + rejected + skipped, "scored": scored, "rejected": rejected}
    return counts if looked_at is None else {**counts, "skipped": skipped}


def _rows(place: str) -> int:
    return parquet.rows(place) if storage.exists(place) else 0


def _model_record(meta: checkpoint.Meta) -> dict[str, Any]:
    values = asdict(meta)
    kept = ("name", "paper", "model", "task", "classes", "positive", "operating", "metrics")
    return {
        **{key: values[key] for key in kept},
        "digest": meta.weights_sha256,
        "data_digest": meta.data_digest,
        "trained": meta.provenance,
    }


def _memory(results: Sequence[ShardResult]) -> dict[str, float]:
    workers: dict[str, float] = {}
    for result in results:
        workers[result.worker] = max(workers.get(result.worker, 0.0), result.peak_rss_mb)
    return {
        "driver_peak": round(peak_rss_mb(), 1),
        "worker_peak": round(max(workers.values(), default=0.0), 1),
    }


def _write_json(place: str, values: Any) -> None:
    storage.write_bytes(place, json.dumps(values, indent=2, default=str).encode())
