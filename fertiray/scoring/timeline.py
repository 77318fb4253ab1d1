"""When each shard of a run was done, and what took how long: ``shards.parquet``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import polars as pl

from fertiray import parquet, storage
from fertiray.scoring.shards import ShardResult

TIMELINE = "shards.parquet"
STAGES = ("read", "decode", "network", "write")
_SCHEMA = {
    "finished": pl.Datetime("ms", "UTC"),
    "shard": pl.String(),
    "scored": pl.Int64(),
    "rejected": pl.Int64(),
    "seconds": pl.Float64(),
    **{f"{stage}_s": pl.Float64() for stage in STAGES},
    "batches": pl.Int64(),
    "worker": pl.Int64(),
    "peak_rss_mb": pl.Float64(),
}


def write_timeline(run: str, results: Sequence[tuple[float, ShardResult]]) -> None:
    """Adds shards to a run's table; one that was done again replaces its earlier row.

    Args:
        run: run folder.
        results: seconds since 1970 at which each was reported, and what became of it.
    """
    place = storage.join(run, TIMELINE)
    workers = {worker: n for n, worker in enumerate(dict.fromkeys(r.worker for _, r in results))}
    rows: list[dict[str, Any]] = [
        {
            "finished": datetime.fromtimestamp(when, UTC),
            **{f"{stage}_s": result.stages.get(stage) for stage in STAGES},
            **{
                key: getattr(result, key)
                for key in ("shard", "scored", "rejected", "seconds", "batches", "peak_rss_mb")
            },
            "worker": workers[result.worker],
        }
        for when, result in results
    ]
    table = pl.DataFrame(rows, _SCHEMA)
    if storage.exists(place):
        table = pl.concat([parquet.read(place), table])
    parquet.write(place, table.unique("shard", keep="last", maintain_order=True).sort("finished"))
