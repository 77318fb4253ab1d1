"""How networks are executed: measured once a model and machine, by the first large job."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from fertiray import config, provenance, storage
from fertiray.scoring.engine import AUTO, EAGER, Choice, torch_device
from fertiray.scoring.run import Chooser
from fertiray.serving.catalogue import Served, served


class Remembered:
    """A :data:`fertiray.scoring.run.Chooser` that measures only what it has not measured before.

    Args:
        file: where it remembers.
        choose: measures.
    """

    def __init__(self, file: Path, choose: Chooser) -> None:
        self._file, self._choose = file, choose
        self._lock = threading.Lock()

    def __call__(
        self, folders: Sequence[str], engine: str, device: str, crops: Sequence[bytes]
    ) -> tuple[Choice, ...]:
        """See ``choose_engines``."""
        if engine != AUTO:
            return self._choose(folders, engine, device, crops)
        with self._lock:
            known = _known(self._file)
            chosen = []
            for folder in folders:
                key = _key(served(folder).id, device)
                if key in known:
                    choice = Choice(known[key]["engine"], tuple(known[key]["tried"]))
                else:
                    (choice,) = self._choose([folder], engine, device, crops)
                    if choice.tried:  # else there were too few crops to judge by
                        known[key] = asdict(choice)
                        storage.write_bytes(str(self._file), json.dumps(known, indent=2).encode())
                chosen.append(choice)
            return tuple(chosen)


class Settled:
    """The way that jobs have settled on for a model on this machine; ``eager`` before that.

    Args:
        file: of :class:`Remembered`; read again when it changes.
        device: torch device, or ``auto``.
    """

    def __init__(self, file: Path, device: str) -> None:
        self._file, self._device = file, device
        self._written, self._known = 0, dict[str, Any]()

    def __call__(self, model: Served) -> str:
        """The name of an engine."""
        with suppress(FileNotFoundError):
            written = self._file.stat().st_mtime_ns
            if written != self._written:
                self._written, self._known = written, _known(self._file)
        choice = self._known.get(_key(model.id, self._device))
        return EAGER if choice is None else str(choice["engine"])


def _known(file: Path) -> dict[str, Any]:
    known: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return known


def _key(model_id: str, device: str) -> str:
    """A model's version on a kind of machine."""
    return f"{model_id} on {_machine(torch_device(device))}"


@cache
def _machine(device: str) -> str:
    return config.digest([device, provenance.machine(), provenance.versions()])
