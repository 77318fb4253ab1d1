"""Ray Data as its guides to batch inference write it: ``map`` decodes, an actor has the network.

A program of its own beside ``fertiray bench pipeline``; see :mod:`fertiray.bench.peers`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext

from fertiray import checkpoint
from fertiray.bench.peers import BATCH, Network, Pass, main, pixels
from fertiray.on_ray.cluster import cluster
from fertiray.processes import cores


class Labels:
    """Labels of batches of normalised crops."""

    def __init__(self, folder: str, device: str) -> None:
        self.network = Network(folder, device)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One batch."""
        return {"label": np.array(self.network(np.stack(batch["pixels"])))}


def prepare(store: str, folder: str, device: str) -> Pass:
    """See ``main``."""
    files = [str(part) for part in sorted(Path(store).glob("part-*"))]
    preprocessing = checkpoint.read_meta(folder).preprocessing
    actors = max(1, cores() - 1)  # the others decode

    def one_pass(count: int) -> list[str]:
        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        decoded = (
            ray.data.read_parquet(files, columns=["image"])
            .limit(count)
            .map(lambda row: {"pixels": pixels(row["image"], preprocessing)})
        )
        found = decoded.map_batches(
            Labels,
            fn_constructor_args=(folder, device),
            batch_size=BATCH,
            compute=ActorPoolStrategy(size=actors),
            num_cpus=1,
            num_gpus=1 if device != "cpu" else None,
        )
        return [row["label"] for row in found.iter_rows()]

    return one_pass


if __name__ == "__main__":
    with cluster(quiet=True):
        main(prepare, f"ray {ray.__version__}")
