"""Scoring that is killed at random moments: the same command again finishes, and nothing is lost.

A store of many small shards, some of its crops corrupt, is scored once undisturbed. Then the
command is hit at random moments, in one process and on Ray, and given again until it is done. Each
time every ``crop_id`` must be in the scores or in the rejects exactly once with the same values,
and shards that were done must not be done again (one per worker at most where Ray itself heals).
What a worker had in hand is done again; it has one shard in hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from fertiray.bench import material
from fertiray.bench.chaos.crash_commands import (
    ACTOR,
    CTRL_C,
    DRIVER,
    FULL,
    MEMORY,
    RAYLET,
    WORKERS_FULL,
    Command,
)
from fertiray.bench.chaos.crash_moments import (
    Course,
    figures,
    stamps,
    summary,
    told,
    tried,
    watched,
)

HERE, ON_RAY = "one process", "Ray"
# What one round of moments tries; what needs no Ray is tried mostly without, which starts faster.
CYCLE = (
    (DRIVER, HERE),
    (CTRL_C, HERE),
    (FULL, HERE),
    (ACTOR, ON_RAY),
    (RAYLET, ON_RAY),
    (MEMORY, ON_RAY),
    (DRIVER, ON_RAY),
    (CTRL_C, ON_RAY),
    (WORKERS_FULL, ON_RAY),
)
CORRUPT_EACH = 61  # crops
FILES = "scores/*.parquet"


def crash(
    folder: Path,
    *,
    moments: int = 20,
    seed: int = 0,
    on_ray: bool = True,
    given: str | None = None,
    shards: int = 40,
    rows: int = 32,
    workers: int = 2,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Hits ``fertiray score`` at random moments.

    The kinds of faults are described at :func:`fertiray.bench.chaos.crash_commands.strike`; for a
    full disk and for exhausted memory they come close to the real thing but are not it.

    Args:
        folder: to work in.
        moments: how many; the kinds of faults take turns.
        seed: of the moments.
        on_ray: those too that need Ray.
        given: checkpoint; a small network is trained where there is none.
        shards: of the store.
        rows: crops of a shard.
        workers: threads or actors.
        say: is told of each moment.

    Returns:
        ``moments``; ``kills``, the faults that hit before the command had ended; ``finished``;
        ``hangs``; ``orphans``, processes left behind; ``lost``, ``duplicated`` and ``differing``
        rows, of all moments; ``most_recomputed``, of the shards that were done, at one moment, and
        ``most_beyond``, over one a worker; ``wrong_ends``, commands that did not end as they
        promise; ``seconds_to_finish``, median of the commands given again. ``kinds`` has the same
        by kind and place.
    """
    images = material.drawn(folder / "drawn")
    store = small_shards(folder / "store", images, shards, rows)
    checkpoint = given or material.network(folder / "network", "basic_cnn", size=64)
    base = ["score", store, "--checkpoint", checkpoint, "--engine", "eager", "--device", "cpu"]
    base += ["--workers", str(workers), "--json"]
    places = {HERE: ["--local"], **({ON_RAY: []} if on_ray else {})}
    courses: dict[str, Course] = {}
    for place, options in places.items():
        whole = folder / f"whole-{len(courses)}"
        done = partial(_shards, whole)
        _, courses[place] = watched([*base, *options, "--out", str(whole)], done)
        say(f"undisturbed, {place}: {courses[place].end:.1f} s")
    ids = pq.read_table(store, columns=["crop_id"]).column("crop_id").to_pylist()
    tables = read_run(folder / "whole-0")
    rng = np.random.default_rng(seed)
    cycle = [(kind, place) for kind, place in CYCLE if place in places]
    found = []
    for number in range(moments):
        kind, place = cycle[number % len(cycle)]
        out = folder / f"moment-{number + 1}"
        came = tried(
            [*base, *places[place], "--out", str(out)], kind, courses[place], rng,
            done=partial(_shards, out), kept=partial(stamps, out, FILES),
        )  # fmt: skip
        again = came.recomputed
        rows_ = compare(read_run(out), tables, ids)
        line = figures(came, place, **rows_, recomputed=again, beyond=max(0, again - workers))
        found.append(line)
        say(f"{number + 1}/{moments}, {len(came.before)} shards done: {told(line)}")
    return summary(found)


def small_shards(folder: Path, images: Sequence[bytes], shards: int, rows: int) -> str:
    """A store of small row groups, one crop in :data:`CORRUPT_EACH` corrupt."""
    whole = material.store(folder.with_name(f"{folder.name}-whole"), images, shards * rows)
    table = pq.read_table(whole)
    content = table.column("image").to_pylist()
    content[::CORRUPT_EACH] = [b"junk"] * len(content[::CORRUPT_EACH])
    place = table.schema.get_field_index("image")
    table = table.set_column(place, table.schema.field(place), pa.array(content, pa.binary()))
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "part-00000.parquet", row_group_size=rows)
    return str(folder)


def _shards(out: Path, command: Command) -> int:
    return len(stamps(out, FILES))


def read_run(out: Path) -> dict[str, pl.DataFrame]:
    """``scores``, ``rejects`` and ``patients`` of a run, as far as it has them."""
    files = {
        part: [file for file in sorted(out.glob(place)) if not file.name.startswith(".")]
        for part, place in (
            ("scores", FILES),
            ("rejects", "rejects/*.parquet"),
            ("patients", "patients.parquet"),
        )
    }
    return {part: pl.concat(map(pl.read_parquet, own)) for part, own in files.items() if own}


def compare(
    ours: dict[str, pl.DataFrame], whole: dict[str, pl.DataFrame], ids: Iterable[str]
) -> dict[str, int]:
    """A run beside an undisturbed one.

    Args:
        ours: the run, see :func:`read_run`; each crop has one row of scores at most.
        whole: the undisturbed one.
        ids: ``crop_id`` of every crop.

    Returns:
        ``lost``: crops without scores that are not rejected either; ``duplicated``: crops with
        more than one such row; ``differing``: rows that only one of the two runs has.
    """
    times: Counter[str] = Counter()
    for part in ("scores", "rejects"):
        times.update(ours[part]["crop_id"].to_list() if part in ours else [])
    differing = 0
    for part, table in whole.items():
        theirs = Counter(table.iter_rows())
        own = Counter(ours[part].iter_rows() if part in ours else [])
        differing += max((own - theirs).total(), (theirs - own).total())
    return {
        "lost": sum(crop_id not in times for crop_id in ids),
        "duplicated": sum(number > 1 for number in times.values()),
        "differing": differing,
    }
