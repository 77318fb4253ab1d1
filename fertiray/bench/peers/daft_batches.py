"""Daft: a data frame of encoded crops, and a class with a batch method that holds the network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import daft
import numpy as np
import torch

from fertiray.bench.peers import BATCH, Network, Pass, main, pixels


@daft.cls(max_concurrency=len(os.sched_getaffinity(0)))
class Labels:
    """Labels of encoded crops."""

    def __init__(self, folder: str, device: str) -> None:
        torch.set_num_threads(1)  # the instances are the parallelism
        self.network = Network(folder, device)

    @daft.method.batch(return_dtype=daft.DataType.string(), batch_size=BATCH)
    def label(self, images: Any) -> list[str]:
        """One call, one batch."""
        preprocessing = self.network.meta.preprocessing
        return self.network(np.stack([pixels(i, preprocessing) for i in images.to_pylist()]))


def prepare(store: str, folder: str, device: str) -> Pass:
    """See ``main``."""
    files = [str(part) for part in sorted(Path(store).glob("part-*"))]
    labels = Labels(folder, device)

    def one_pass(count: int) -> list[str]:
        frame = daft.read_parquet(files).select("image").limit(count)
        found = frame.select(labels.label(frame["image"]).alias("label"))
        values: list[str] = found.to_pydict()["label"]
        return values

    return one_pass


if __name__ == "__main__":
    main(prepare, f"daft {daft.__version__}")
