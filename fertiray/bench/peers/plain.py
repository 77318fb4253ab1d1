"""A plain PyTorch loop: a ``DataLoader`` that decodes in worker processes, float32, batches."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from fertiray.bench.peers import BATCH, Network, Pass, main, pixels
from fertiray.models.preprocess import Preprocessing


class Crops(Dataset[NDArray[np.float32]]):
    """The first crops of a store, decoded when they are asked for."""

    def __init__(self, store: str, count: int, preprocessing: Preprocessing) -> None:
        parts = [pq.read_table(p, columns=["image"]) for p in sorted(Path(store).glob("part-*"))]
        self.images = [image for part in parts for image in part["image"].to_pylist()][:count]
        self.preprocessing = preprocessing

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> NDArray[np.float32]:
        return pixels(self.images[place], self.preprocessing)


def prepare(store: str, folder: str, device: str) -> Pass:
    """See ``main``."""
    network = Network(folder, device)

    def one_pass(count: int) -> list[str]:
        data = Crops(store, count, network.meta.preprocessing)
        loader = DataLoader(data, BATCH, num_workers=len(os.sched_getaffinity(0)))
        return [label for batch in loader for label in network(batch.numpy())]

    return one_pass


if __name__ == "__main__":
    main(prepare, f"torch {torch.__version__}")
