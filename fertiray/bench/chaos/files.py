"""Files that nobody has vouched for, through every door that files come in by.

Each door is tried in child processes, because what is looked for ends a process, or never ends: a
child that dies has crashed, one that says nothing for too long hangs. Either way the next child
goes on with the next attempt. Memory is counted in the child, over what it holds before the first
attempt that counts; with archives it includes what it takes to make them.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from fertiray.bench.chaos.doors import TREE

FAULTS = 20  # that are told in words
STOP_S = 20  # that a child has to end by itself


@dataclass(frozen=True)
class Door:
    """What is tried at a door, and what it may take.

    Attributes:
        share: of all files.
        files: of an attempt.
        hangs_s: without an answer to an attempt, on a busy machine.
        memory_mb: over the start, at most.
    """

    share: float
    files: int
    hangs_s: float
    memory_mb: float


REQUEST = 16  # images of a request
DOORS = {
    "decode": Door(0.80, 1, 30, 128),
    "ingest": Door(0.15, TREE, 180, 384),
    "unpack": Door(0.02, 1, 180, 384),
    "score": Door(0.028, REQUEST, 180, 384),
    "jobs": Door(0.002, 1, 300, 384),
}


def files(
    folder: Path, *, count: int = 20_000, seed: int = 0, say: Callable[[str], None]
) -> dict[str, Any]:
    """Tries hostile images and archives at every door.

    Args:
        folder: to work in; what is written there is of no use afterwards.
        count: files to try, at least.
        seed: names them.
        say: told of progress.

    Returns:
        ``files`` tried, ``crashes``, ``hangs``, ``wrong`` (answers that must not be),
        ``over_memory`` (doors beyond their limit); ``doors``: by name ``files``, ``kinds``,
        ``pictures``, ``rejects`` by reason, ``answers`` by status, ``crashes``, ``hangs``,
        ``wrong``, ``peak_mb`` over the start, ``limit_mb``, ``slowest_cpu_s`` of an attempt and
        ``seconds``; ``faults``: the first of them, with ``door`` and ``number`` of the attempt.

    Raises:
        RuntimeError: a door that cannot even be opened, with what it said.
    """
    doors, faults = {}, []
    for name, door in DOORS.items():
        own = folder / name
        own.mkdir(parents=True, exist_ok=True)
        figures, found = _try(name, door, ceil(count * door.share / door.files), own, seed, say)
        doors[name] = figures
        faults += found
    return {
        "files": sum(door["files"] for door in doors.values()),
        **{key: sum(door[key] for door in doors.values()) for key in ("crashes", "hangs", "wrong")},
        "over_memory": [key for key, door in doors.items() if door["peak_mb"] > door["limit_mb"]],
        "doors": doors,
        "faults": faults[:FAULTS],
        "seed": seed,
    }


def _try(
    name: str, door: Door, attempts: int, folder: Path, seed: int, say: Callable[[str], None]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The figures of a door, and its faults."""
    began = time.monotonic()
    total = {key: Counter[str]() for key in ("kinds", "rejects", "answers")}
    numbers = Counter[str]()
    slowest = peak = 0.0
    faults: list[dict[str, Any]] = []
    number = 0

    def fault(what: str) -> None:
        faults.append({"door": name, "number": number, "what": what})

    while number < attempts:
        child = _Child([name, str(folder), str(seed), str(number), str(attempts)])
        while number < attempts:
            line = child.line(door.hangs_s)
            if line is None:
                what = child.end()
                numbers["hangs" if what == "hang" else "crashes"] += 1
                numbers["files"] += door.files
                fault(what)
                number += 1
                break
            for key, counter in total.items():
                counter.update(line[key])
            numbers.update({key: line[key] for key in ("files", "pictures")})
            numbers["wrong"] += len(line["wrong"])
            slowest, peak = max(slowest, line["cpu_s"]), max(peak, line["peak_mb"])
            for what in line["wrong"]:
                fault(what)
            number += 1
            if number == attempts or number % max(1, attempts // 10) == 0:
                say(f"{name}: {number}/{attempts} attempts, {numbers['files']} files")
        else:
            child.end()
    keys = ("files", "pictures", "crashes", "hangs", "wrong")
    return {
        **{key: numbers[key] for key in keys},
        **{key: dict(sorted(counter.items())) for key, counter in total.items()},
        "peak_mb": round(peak, 1),
        "limit_mb": door.memory_mb,
        "slowest_cpu_s": round(slowest, 3),
        "seconds": round(time.monotonic() - began, 1),
    }, faults


class _Child:
    """A process at a door, whose lines are waited for no longer than they may take.

    Args:
        arguments: of :mod:`fertiray.bench.chaos.doors`.

    Raises:
        RuntimeError: it ended before the door was open.
    """

    def __init__(self, arguments: list[str]) -> None:
        self._errors = Path(arguments[1]) / "stderr"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fertiray.bench.chaos.doors", *arguments],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        if self._next(600) != "open":
            self._process.kill()
            raise RuntimeError(f"{arguments[0]}: not opened: {self._errors.read_text()[-2000:]}")
        self._ready = False

    def line(self, seconds: float) -> dict[str, Any] | None:
        """What became of the next attempt; None where no answer came."""
        if not self._ready:
            self._ready = self._next(seconds) == "ready"
        text = self._next(seconds) if self._ready else ""
        found: dict[str, Any] | None = json.loads(text) if text else None
        return found

    def end(self) -> str:
        """Waits for the end of a process that has said all; else ends it: how it went."""
        try:
            code = self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return "hang"
        said = self._errors.read_text(errors="replace").strip().splitlines()
        return f"exit code {code}: {said[-1][:300] if said else ''}"

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.strip())
        self._lines.put("")

    def _next(self, seconds: float) -> str:
        """The next line; empty at the end or where it does not come in time."""
        try:
            return self._lines.get(timeout=seconds)
        except queue.Empty:
            return ""
