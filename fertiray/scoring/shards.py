"""Bulk scoring, one shard at a time: a shard is one row group of the crop store.

A shard's results are files named after it, so that scoring it twice writes the same files twice and
nothing is ever counted double. ``scores/SHARD.parquet`` is written last: where it exists, the shard
is done. That makes every run resumable at the grain of one shard, in one process as on a cluster.
"""

from __future__ import annotations

import io
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fertiray import storage, telemetry, work
from fertiray.data.crops import RowGroup, iter_batches
from fertiray.scoring.engine import EAGER
from fertiray.scoring.gallery import GALLERY_SCHEMA, Gallery
from fertiray.scoring.scorer import ScoredBatch, Scorer, class_columns

# Crops decoded and held at a time: bounds a worker's memory whatever the size of a row group.
PARTS = ("scores", "rejects")  # of a shard that is done
BATCH = 256

REJECT_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("crop_id", "patient_id", "slide_id", "stage", "error")]
)
KEYS = ("crop_id", "patient_id", "slide_id")
# See scorer.ScoredModel; null where a checkpoint does not give them.
TRUST = ("ood", "spread")


@dataclass(frozen=True)
class ScoringJob:
    """What every worker of a run must know; plain values, so that it travels anywhere.

    Attributes:
        store: crop store, local or ``s3://``.
        checkpoints: checkpoint folders, local or ``s3://``.
        out: run folder, local or ``s3://``.
        device: torch device, or ``auto``.
        engine: how the networks are to be executed; see :mod:`fertiray.scoring.engine`.
        engines: how each one is, once that is settled; empty for ``eager``.
    """

    store: str
    checkpoints: tuple[str, ...]
    out: str
    device: str = "auto"
    engine: str = "auto"
    engines: tuple[str, ...] = ()


@dataclass(frozen=True)
class ShardResult:
    """What became of one shard.

    Attributes:
        shard: its name.
        scored: crops with scores.
        rejected: crops without.
        seconds: time spent on it in its worker.
        worker: identifies the worker's process.
        peak_rss_mb: largest resident memory of that process so far, MiB.
        rejects: crops without scores, by the stage that failed.
        stages: seconds by stage, see ``stage_seconds`` of :mod:`fertiray.telemetry`.
        batches: how many there were.
    """

    shard: str
    scored: int
    rejected: int
    seconds: float
    worker: str
    peak_rss_mb: float
    rejects: dict[str, int] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)
    batches: int = 0


def shard_name(group: RowGroup) -> str:
    """File stem for a row group's results: its place in the store, flattened."""
    stem = PurePosixPath(group.file).with_suffix("").as_posix().replace("/", "--")
    return f"{stem}-{group.index:05d}"


def scores_schema(scorer: Scorer) -> pa.Schema:
    """Columns of ``scores/``: keys, model, label, a probability per class, :data:`TRUST`."""
    texts = [(name, pa.string()) for name in (*KEYS, "model", "label")]
    numbers = [(name, pa.float32()) for name in (*class_columns(scorer.metas), *TRUST)]
    return pa.schema([*texts, *numbers])


class ShardScorer:
    """Reads, decodes, scores and writes one shard per call. Safe to call from several threads.

    Args:
        job: what to score with which checkpoints into which run folder.
        streams: threads that will call it at the same time.
    """

    def __init__(self, job: ScoringJob, streams: int = 1) -> None:
        self.job = job
        # One thread per worker: workers are the parallelism, and a convolution that is not split
        # gives the same bits however many of them there are.
        self.scorer = Scorer(
            job.checkpoints, device=job.device, engines=job.engines, streams=streams, threads=1
        )
        self.schema = scores_schema(self.scorer)
        kind = self.scorer.device.partition(":")[0]
        for engine in set(job.engines) or {EAGER}:
            telemetry.gauge("engine_info", 1, engine=engine, device=kind)

    def __call__(self, group: RowGroup) -> ShardResult:
        """Scores one row group.

        Raises:
            InputError: the store's file is gone, cut short or has other columns.
        """
        started = time.perf_counter()
        shard = shard_name(group)
        scores: list[pa.RecordBatch] = []
        rejects: list[dict[str, Any]] = []
        gallery = Gallery(self.scorer.metas)
        scored = batches = 0
        stages = work.Stages()
        read = iter_batches(self.job.store, group, [*KEYS, "image"], BATCH)
        for batch in stages.each("read", read):
            columns = {name: batch.column(name).to_pylist() for name in (*KEYS, "image")}
            result = self.scorer([image or b"" for image in columns.pop("image")])
            batches += 1
            for stage, seconds in result.seconds.items():
                stages.took(stage, seconds)
            telemetry.observe("batch_seconds", sum(result.seconds.values()))
            good = np.array([stage is None for stage in result.stages])
            scored += int(good.sum())
            scores += self._score_rows(columns, result, good)
            rejects += [
                {
                    **{name: columns[name][place] for name in KEYS},
                    "stage": result.stages[place],
                    "error": result.errors[place],
                }
                for place in np.flatnonzero(~good)
            ]
            gallery.add(columns, result)
        with stages("write"):
            self._write("rejects", shard, pa.Table.from_pylist(rejects, REJECT_SCHEMA))
            self._write("gallery", shard, pa.Table.from_pylist(gallery.rows(), GALLERY_SCHEMA))
            self._write("scores", shard, pa.Table.from_batches(scores, self.schema))
        work.busy()
        return ShardResult(
            shard,
            scored,
            len(rejects),
            time.perf_counter() - started,
            f"{platform.node()}:{os.getpid()}",
            peak_rss_mb(),
            dict(Counter(reject["stage"] for reject in rejects)),
            stages.seconds,
            batches,
        )

    def _score_rows(
        self, columns: dict[str, list[str]], result: ScoredBatch, good: np.ndarray[Any, Any]
    ) -> list[pa.RecordBatch]:
        places = np.flatnonzero(good)
        keys = [pa.array([columns[name][i] for i in places], pa.string()) for name in KEYS]
        rows = []
        for meta, model in zip(self.scorer.metas, result.models, strict=True):
            own = {f"p_{name}": k for k, name in enumerate(meta.classes)}
            label = [meta.classes[model.labels[i]] for i in places]
            rows.append(
                pa.record_batch(
                    [
                        *keys,
                        pa.array([model.name] * len(places), pa.string()),
                        pa.array(label, pa.string()),
                        *(
                            pa.array(model.probabilities[places, own[name]], pa.float32())
                            if name in own
                            else pa.nulls(len(places), pa.float32())
                            for name in class_columns(self.scorer.metas)
                        ),
                        pa.array(model.ood[places], pa.float32(), from_pandas=True),
                        pa.array(model.spread[places], pa.float32(), from_pandas=True),
                    ],
                    schema=self.schema,
                )
            )
        return rows

    def _write(self, folder: str, shard: str, table: pa.Table) -> None:
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
        place = storage.join(self.job.out, folder, f"{shard}.parquet")
        storage.write_bytes(place, buffer.getvalue())


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, MiB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def score_locally(
    job: ScoringJob,
    groups: Sequence[RowGroup],
    workers: int,
    report: Callable[[ShardResult], None],
) -> None:
    """Scores row groups with ``workers`` threads of this process that share the networks.

    Args:
        job: what to score.
        groups: the row groups to do.
        workers: threads; decoding and the networks run outside Python's lock.
        report: called in this thread after each shard.
    """
    score_shard = ShardScorer(job, streams=workers)
    with ThreadPoolExecutor(workers) as pool:
        tasks = [pool.submit(score_shard, group) for group in groups]
        try:
            for task in as_completed(tasks):
                report(task.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def done_shards(out: str) -> set[str]:
    """Names of the shards whose scores and rejects are on disk."""
    parts = (storage.list_files(storage.join(out, part), ".parquet") for part in PARTS)
    return set.intersection(*({PurePosixPath(file).stem for file in part} for part in parts))
