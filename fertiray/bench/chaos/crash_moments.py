"""Moments at which a command is hit: drawn along an undisturbed run, tried, and summed up."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from fertiray.bench.chaos.crash_commands import (
    ACTOR,
    CTRL_C,
    FULL,
    LOOK_S,
    MEMORY,
    RAYLET,
    WORKERS_FULL,
    Command,
    Ended,
    strike,
)

# Share of the moments before the first unit of work, among them, and after the last.
PHASES = (0.2, 0.65, 0.15)
ON_WORKERS = (ACTOR, RAYLET, MEMORY, WORKERS_FULL)  # faults for which there must be workers

Done = Callable[[Command], int]
Stamps = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Course:
    """An undisturbed run, by which moments are drawn.

    Attributes:
        units: pieces of work, such as shards or epochs.
        first: seconds until the first is done.
        last: seconds until all are.
        end: seconds until the command has ended.
    """

    units: int
    first: float
    last: float
    end: float


@dataclass(frozen=True)
class Tried:
    """What came of one moment.

    Attributes:
        kind: of the fault.
        hit: whether it came before the command had ended.
        ended: the command that was hit.
        again: the same command given again; ``ended`` itself where that had finished.
        before: files of the units that were done and had to stay, see :func:`stamps`.
        after: the same, in the end.
    """

    kind: str
    hit: bool
    ended: Ended
    again: Ended
    before: Stamps
    after: Stamps

    @property
    def recomputed(self) -> int:
        """Units that were done and were written again."""
        return sum(self.after.get(name) != stamp for name, stamp in self.before.items())


def watched(arguments: Sequence[str], done: Done) -> tuple[Ended, Course]:
    """An undisturbed run and its course.

    Args:
        arguments: of ``fertiray``.
        done: number of units that are done.

    Raises:
        RuntimeError: it failed.
    """
    command = Command(arguments)
    command.wait(lambda: done(command) > 0)
    first, last, units = command.seconds, command.seconds, done(command)
    while command.process.poll() is None:
        if (now := done(command)) > units:
            units, last = now, command.seconds
        time.sleep(LOOK_S)
    ended = command.end()
    if ended.code != 0:
        raise RuntimeError(f"undisturbed, it ended with {ended.code}: {ended.said[-2000:]}")
    return ended, Course(done(command), first, last, ended.seconds)


def drawn(rng: np.random.Generator, course: Course, *, working: bool) -> tuple[int, float]:
    """A moment: so many units are to be done, and so many seconds later it is.

    Args:
        rng: draws it.
        course: of the same command, undisturbed.
        working: a moment while units are done, not before the first or after the last.
    """
    phase = 1 if working else rng.choice(3, p=PHASES)
    if phase == 0:
        return 0, rng.uniform(0, course.first)
    if phase == 2:
        return course.units, rng.uniform(0, course.end - course.last)
    # Not just when a unit is done, but anywhere within the next.
    unit = (course.last - course.first) / max(1, course.units - 1)
    return int(rng.integers(1, max(2, course.units))), rng.uniform(0, unit)


def stamps(folder: Path, pattern: str) -> Stamps:
    """Inode and time of a folder's files: where either is another, it was written again."""
    files = {file: file.stat() for file in folder.glob(pattern) if not file.name.startswith(".")}
    return {str(file): (stat.st_ino, stat.st_mtime_ns) for file, stat in files.items()}


def tried(
    arguments: Sequence[str],
    kind: str,
    course: Course,
    rng: np.random.Generator,
    *,
    done: Done,
    kept: Callable[[], Stamps],
) -> Tried:
    """Hits a command at a random moment, and gives it again where that ended it.

    Args:
        arguments: of ``fertiray``.
        kind: of the fault, see :func:`fertiray.bench.chaos.crash_commands.strike`.
        course: of the same command, undisturbed.
        rng: draws the moment.
        done: number of units that are done.
        kept: files of the units that are done and must not be written again.
    """
    units, then = drawn(rng, course, working=kind in ON_WORKERS)
    command = Command(arguments)
    there = command.wait(lambda: done(command) >= units, then)
    tree, before = command.tree(), kept()
    hit = there and strike(kind, command)
    ended = command.end(tree)
    if ended.code == 0 or ended.document is not None:  # finished all the same
        return Tried(kind, hit, ended, ended, before, kept())
    before = kept()
    again = Command(arguments).end()
    return Tried(kind, hit, ended, again, before, kept())


def wrong_end(kind: str, ended: Ended) -> str | None:
    """Why a command that was hit did not end as it promises; None where it did.

    It ends. Where Ray lost one process it ends well. After Ctrl-C the exit code is 130, on a full
    disk 2, and the last line says what to do; there is no traceback.
    """
    line = ended.said.strip().rpartition("\n")[2]
    last = re.sub(r"/\S*/", "", line)[-200:]  # without the places of this machine
    if ended.code is None:
        return "hung"
    if ended.code == 0 or ended.document is not None:
        return None
    full = {FULL: 2, WORKERS_FULL: 2}
    promised = {CTRL_C: 130, **full, ACTOR: 0, MEMORY: -signal.SIGKILL}.get(kind, ended.code)
    in_a_line = "Traceback" not in ended.said and "fertiray: " in last
    if ended.code != promised or (kind in (CTRL_C, *full) and not in_a_line):
        return f"exit code {ended.code}: {last}"
    return None


def figures(found: Tried, place: str, **more: int) -> dict[str, Any]:
    """One moment as a line of figures.

    Args:
        found: what came of it.
        place: where the command ran, such as ``Ray``.
        more: what is particular to the command; ``recomputed`` and ``beyond`` (of the units
            computed again those that were more than one per worker) among it.
    """
    again, orphans = found.again, found.ended.orphans
    wrong = wrong_end(found.kind, found.ended) if found.hit else None
    wrongs = [] if wrong is None else [wrong]
    if orphans:
        wrongs.append(f"left behind: {', '.join(orphans)}")
    return {
        "kind": f"{found.kind}, {place}",
        "kills": int(found.hit),
        "finished": int(again.code == 0 or again.document is not None),
        "hangs": sum(own.code is None for own in {id(o): o for o in (found.ended, again)}.values()),
        "orphans": len(orphans),
        "wrong_ends": wrongs,
        "seconds_to_finish": None if again is found.ended else again.seconds,
        **more,
    }


def told(line: dict[str, Any]) -> str:
    """One moment, for a person."""
    after = line["seconds_to_finish"]
    text = "it finished" if after is None else f"given again, it finished in {after:.1f} s"
    if not line["finished"]:
        text = "IT DID NOT FINISH"
    hit = "" if line["kills"] else ", which came too late"
    return "; ".join([f"{line['kind']}{hit}: {text}", *line["wrong_ends"]])


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of some moments: all together, and by kind below ``kinds``."""
    kinds = {kind: [line for line in found if line["kind"] == kind] for kind in _kinds(found)}
    return {**_summed(found), "kinds": {kind: _summed(own) for kind, own in kinds.items()}}


def _kinds(found: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(line["kind"] for line in found))


def _summed(found: list[dict[str, Any]]) -> dict[str, Any]:
    times = [line["seconds_to_finish"] for line in found if line["seconds_to_finish"] is not None]
    names = [name for name in found[0] if isinstance(found[0][name], int)]
    most = ("recomputed", "beyond")
    return {
        "moments": len(found),
        **{name: sum(line[name] for line in found) for name in names if name not in most},
        **{f"most_{name}": max(line[name] for line in found) for name in most},
        "wrong_ends": [text for line in found for text in line["wrong_ends"]],
        "seconds_to_finish": round(median(times), 2) if times else None,
    }
