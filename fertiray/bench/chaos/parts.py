"""The parts of ``fertiray bench chaos``, each for itself and in a folder of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fertiray import provenance
from fertiray.bench.chaos.crash import crash
from fertiray.bench.chaos.crash_others import segmentation, training, tuning
from fertiray.bench.chaos.files import files
from fertiray.bench.chaos.load import load
from fertiray.bench.chaos.storage_faults import storage_faults
from fertiray.errors import InputError

Say = Callable[[str], None]


@dataclass(frozen=True)
class Sizes:
    """How much is tried.

    Attributes:
        moments: at which ``fertiray score`` is hit; the other commands at a quarter as many.
        files: hostile files.
        seconds: of the soak.
        on_ray: what needs Ray too.
        seed: names the moments, the files and the faults.
    """

    moments: int = 20
    files: int = 20_000
    seconds: float = 300
    on_ray: bool = True
    seed: int = 0

    @property
    def fewer(self) -> int:
        """Moments of a command other than ``fertiray score``."""
        return max(1, self.moments // 4)


PARTS: dict[str, Callable[[Path, Sizes, Say], dict[str, Any]]] = {
    "score": lambda folder, sizes, say: crash(
        folder, moments=sizes.moments, seed=sizes.seed, on_ray=sizes.on_ray, say=say
    ),
    "train": lambda folder, sizes, say: training(
        folder, moments=sizes.fewer, seed=sizes.seed, say=say
    ),
    "segment": lambda folder, sizes, say: segmentation(
        folder, moments=sizes.fewer, seed=sizes.seed, say=say
    ),
    "tune": lambda folder, sizes, say: tuning(
        folder, moments=sizes.fewer, seed=sizes.seed, say=say
    ),
    "storage": lambda folder, sizes, say: storage_faults(
        folder, on_ray=sizes.on_ray, seed=sizes.seed, say=say
    ),
    "files": lambda folder, sizes, say: files(folder, count=sizes.files, seed=sizes.seed, say=say),
    "load": lambda folder, sizes, say: load(
        folder, seconds=sizes.seconds, on_ray=sizes.on_ray, say=say
    ),
}


def run_part(name: str, sizes: Sizes, say: Say) -> dict[str, Any]:
    """Tries one part.

    Args:
        name: one of :data:`PARTS`.
        sizes: how much of it.
        say: told of progress.

    Returns:
        The part's figures, and ``command``, ``machine``, ``versions``.

    Raises:
        InputError: an unknown part.
    """
    if name not in PARTS:
        raise InputError(f"--part {name}: unknown; choose of: {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory(prefix="fertiray-chaos-") as folder:
        figures = PARTS[name](Path(folder), sizes, say)
    return {
        **figures,
        "command": provenance.command(),
        "machine": provenance.machine(),
        "versions": provenance.versions(),
    }
