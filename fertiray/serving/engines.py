"""How networks are executed in jobs: measured once a model and machine, not once a job."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fertiray import config, provenance, storage
from fertiray.scoring.engine import AUTO, Choice, torch_device
from fertiray.scoring.run import Chooser
from fertiray.serving.catalogue import served


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
            known = json.loads(self._file.read_text()) if self._file.exists() else {}
            chosen = []
            for folder in folders:
                key = _key(folder, device)
                if key in known:
                    choice = Choice(known[key]["engine"], tuple(known[key]["tried"]))
                else:
                    (choice,) = self._choose([folder], engine, device, crops)
                    if choice.tried:  # else there were too few crops to judge by
                        known[key] = asdict(choice)
                        storage.write_bytes(str(self._file), json.dumps(known, indent=2).encode())
                chosen.append(choice)
            return tuple(chosen)


def _key(folder: str, device: str) -> str:
    """A model's version on a kind of machine."""
    machine = config.digest([torch_device(device), provenance.machine(), provenance.versions()])
    return f"{served(folder).id} on {machine}"
