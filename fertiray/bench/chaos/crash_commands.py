"""A ``fertiray`` command that a fault hits on purpose: begun, watched, hit, and seen to its end."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

DRIVER = "driver killed"
CTRL_C = "Ctrl-C"
FULL = "disk full"
WORKERS_FULL = "workers' disk full"
ACTOR = "actor killed"
RAYLET = "raylet killed"
MEMORY = "out of memory"

PATIENCE_S = 900.0  # what takes longer hangs
GONE_S = 90.0  # in which all processes of a command must have gone; Ray's agents take 60
LOOK_S = 0.004  # between two looks at how far a command is


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: exit code, below 0 for a signal; None where it hung and was killed.
        said: what it wrote to stderr.
        document: what it printed on stdout, where that is one JSON document.
        seconds: from its start.
        orphans: names of processes that were left :data:`GONE_S` later.
    """

    code: int | None
    said: str
    document: dict[str, Any] | None
    seconds: float
    orphans: tuple[str, ...] = ()


class Command:
    """``fertiray ARGUMENTS`` in a session of its own, so that Ctrl-C reaches all of it."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fertiray", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,  # not files: to them a full disk would apply too
            start_new_session=True,
        )
        assert self.process.stdout
        assert self.process.stderr
        self._out, self._said = _Drain(self.process.stdout), _Drain(self.process.stderr)

    @property
    def said(self) -> str:
        """What came on stderr so far."""
        return self._said.text()

    @property
    def seconds(self) -> float:
        """Since its start."""
        return time.monotonic() - self.began

    def tree(self) -> list[psutil.Process]:
        """Its process and all below it."""
        try:
            process = psutil.Process(self.process.pid)
            return [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def wait(self, reached: Callable[[], bool], then: float = 0.0) -> bool:
        """Waits until something is reached, and ``then`` seconds more; False if it ended before."""
        while not reached():
            if self.process.poll() is not None or self.seconds > PATIENCE_S:
                return False
            time.sleep(LOOK_S)
        time.sleep(then)
        return self.process.poll() is None

    def end(self, tree: Sequence[psutil.Process] = ()) -> Ended:
        """Waits for its end, and for that of the processes it had.

        Args:
            tree: of a moment when it was still running.
        """
        code: int | None = None
        try:
            code = self.process.wait(max(1.0, PATIENCE_S - self.seconds))
        except subprocess.TimeoutExpired:
            tree = [*tree, *self.tree()]
            self.process.kill()
            self.process.wait()
        seconds = self.seconds
        left = [own for own in left_over(tree) if own.pid != self.process.pid]
        names = tuple(_title(own) for own in left)
        for own in left:
            with suppress(psutil.NoSuchProcess):
                own.kill()
        out, said = self._out.text(GONE_S), self._said.text(GONE_S)
        try:
            document = json.loads(out)
        except ValueError:
            document = None
        return Ended(code, said, document, seconds, names)


class _Drain:
    """Reads a pipe as it fills."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._lines: list[bytes] = []
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream: IO[bytes]) -> None:
        self._lines.extend(iter(stream.readline, b""))

    def text(self, wait: float = 0.0) -> str:
        self._thread.join(wait)
        return b"".join(self._lines).decode(errors="replace")


def left_over(tree: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those of some processes that do not go by themselves within :data:`GONE_S`."""
    give_up = time.monotonic() + GONE_S
    while left := [own for own in tree if _alive(own)]:
        if time.monotonic() > give_up:
            break
        time.sleep(0.1)
    return left


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def strike(kind: str, command: Command) -> bool:
    """Applies a fault to a running command; False where what it is for was not there.

    Args:
        kind: ``DRIVER``: SIGKILL of the command itself. ``CTRL_C``: SIGINT to its process group, as
            a terminal sends it. ``FULL``: from now on no file of its processes may grow, so that
            each write fails as on a full disk, but with EFBIG in place of ENOSPC. ``WORKERS_FULL``:
            the same for the actors that score, whose node's disk is full. ``ACTOR``:
            SIGKILL of one actor that scores. ``RAYLET``: SIGKILL of Ray's raylet. ``MEMORY``:
            SIGKILL of that process of the command to which the kernel gives the highest oom_score,
            as its out-of-memory killer would; the machine's memory is not really exhausted.
        command: to hit.
    """
    tree = command.tree()
    try:
        if kind == CTRL_C:
            os.killpg(command.process.pid, signal.SIGINT)
            return True
        if kind == FULL:
            return _filled(tree)
        actors = [own for own in tree if _title(own).startswith("ray::MapWorker")]
        if kind == WORKERS_FULL:
            return _filled(actors)
        victims = tree[:1]
        if kind == ACTOR:
            victims = actors[:1]
        elif kind == RAYLET:
            victims = [own for own in tree if _title(own) == "raylet"][:1]
        elif kind == MEMORY:
            victims = sorted(tree, key=_oom_score)[-1:]
        for own in victims:
            own.kill()
        return bool(victims)
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


def _filled(processes: Sequence[psutil.Process]) -> bool:
    """No file of these processes grows any more; whether there were any."""
    for own in processes:
        resource.prlimit(own.pid, resource.RLIMIT_FSIZE, (0, 0))
    return bool(processes)


def _title(process: psutil.Process) -> str:
    """As Ray names its processes, such as ``ray::IDLE`` or ``raylet``; empty where it is gone."""
    try:
        title = " ".join(process.cmdline())
        return title if title.startswith("ray::") else process.name()
    except psutil.NoSuchProcess:
        return ""


def _oom_score(process: psutil.Process) -> int:
    try:
        return int(Path(f"/proc/{process.pid}/oom_score").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return -1
