"""``fertiray serve`` as a process of its own, to be watched, loaded and killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from fertiray.client import Client
from fertiray.errors import InputError
from fertiray.scoring.engine import EAGER
from fertiray.serving import tokens

START_S, STOP_S = 240, 120
CLINIC = "clinic-a"


@dataclass(frozen=True)
class Footprint:
    """What a service holds at a moment, over all its processes.

    Attributes:
        rss_mb: resident memory in MiB; pages that processes share count in each.
        descriptors: open files and sockets.
        processes: how many there are.
        threads: of all of them.
    """

    rss_mb: float
    descriptors: int
    processes: int
    threads: int


class Service:
    """A service in a process of its own, on a free port, with one clinic's token.

    Args:
        folder: of its tokens, state and log.
        checkpoint: that it serves.
        options: further options of ``fertiray serve``.
        ca: PEM file of the authority of its certificate, where the options name one.
    """

    def __init__(self, folder: Path, checkpoint: str, *options: str, ca: str | None = None) -> None:
        self.folder, self.checkpoint, self.options, self.ca = folder, checkpoint, options, ca
        self.port = free_port()
        self.token, _ = tokens.add(str(folder / "tokens.json"), CLINIC)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def client(self) -> Client:
        """A new client with the clinic's token."""
        return Client(self.url, self.token, ca=self.ca)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{'https' if self.ca else 'http'}://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it and waits for its first answer.

        Raises:
            RuntimeError: it ends or does not answer; with the last it said.
        """
        command = [
            *(sys.executable, "-m", "fertiray", "serve", "--checkpoint", self.checkpoint),
            *("--state", str(self.folder / "state"), "--tokens", str(self.folder / "tokens.json")),
            *("--port", str(self.port), "--device", "cpu", "--engine", EAGER, *self.options),
        ]
        # A Ray of its own, whatever this process is connected to.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        with (self.folder / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        give_up = time.monotonic() + START_S
        while time.monotonic() < give_up and self.process.poll() is None:
            try:
                self.client.models()
            except InputError:
                time.sleep(0.5)
            else:
                return
        said = (self.folder / "serve.log").read_text()[-3000:]
        raise RuntimeError(f"the service did not start: {said}")

    def family(self) -> list[psutil.Process]:
        """This service's processes and no others."""
        assert self.process is not None
        head = psutil.Process(self.process.pid)
        return [head, *head.children(recursive=True)]

    def footprint(self) -> Footprint:
        """What it holds now."""
        rss = descriptors = processes = threads = 0
        for process in self.family():
            try:
                with process.oneshot():
                    own = process.memory_info().rss, process.num_fds(), process.num_threads()
            except psutil.Error:
                continue  # it ended just now
            rss, descriptors, threads = rss + own[0], descriptors + own[1], threads + own[2]
            processes += 1
        return Footprint(rss / 2**20, descriptors, processes, threads)

    def kill(self, title: str) -> None:
        """SIGKILL for one process with a word in its command line.

        Raises:
            LookupError: there is none.
        """
        for process in self.family():
            try:
                found = title in " ".join(process.cmdline())
            except psutil.Error:
                continue
            if found:
                process.send_signal(signal.SIGKILL)
                return
        raise LookupError(f"no process of the service is called {title}")

    def kill_all(self) -> None:
        """SIGKILL for the whole node: driver, Ray's own processes and every replica."""
        family = self.family()
        for process in family:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(family, 30)
        assert self.process is not None
        self.process.wait(30)

    def stop(self) -> None:
        """Ends it as Ctrl-C does, if it still runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(STOP_S)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
