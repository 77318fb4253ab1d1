"""Other ways to score the same crops with the same network: what ``bench pipeline`` is beside.

Each is a program of its own, as its documentation would have a user write it: ``STORE CHECKPOINT
CROPS DEVICE`` in, one JSON line out. All of them decode and resize with our functions, which is the
faster choice for them too, so that only the way the work is arranged differs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fertiray import checkpoint
from fertiray.data.images import CROP, decode
from fertiray.models.predict import call
from fertiray.models.preprocess import Preprocessing, resize_crop

BATCH = 32
SHORT = 10  # the short pass has so many times fewer crops

# Number of crops to the labels of as many, in the store's order.
Pass = Callable[[int], list[str]]


def environment() -> dict[str, str]:
    """Of a peer's process, whose interpreter may be another one: it finds this package."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}


def pixels(image: bytes, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """C x H x W float32, normalised on the host, as the tutorials have it."""
    crop = resize_crop(decode(image, limits=CROP), preprocessing).astype(np.float32) / 255
    if preprocessing.channels == 1:
        crop = crop @ np.array([[0.299], [0.587], [0.114]], np.float32)
    mean, std = (np.array(v, np.float32) for v in (preprocessing.mean, preprocessing.std))
    return np.ascontiguousarray(((crop - mean) / std).transpose(2, 0, 1), np.float32)


class Network:
    """The checkpoint's network, in float32, by plain PyTorch."""

    def __init__(self, folder: str, device: str) -> None:
        model, self.meta = checkpoint.load(folder)
        self.model: nn.Module = model.eval().to(device)
        self.device = device

    def __call__(self, batch: NDArray[np.float32]) -> list[str]:
        """N x C x H x W to labels, the positive class from its threshold on."""
        with torch.no_grad():
            logits = self.model(torch.from_numpy(batch).to(self.device))
            values = torch.softmax(logits, 1).cpu().numpy()
        positive = self.meta.classes.index(self.meta.positive)
        called = call(values, positive, self.meta.operating.threshold)
        return [self.meta.classes[k] for k in called]


def main(prepare: Callable[[str, str, str], Pass], version: str) -> None:
    """Times a long and a short pass and prints their difference.

    Args:
        prepare: store, checkpoint and device to a function that does a pass.
        version: of the program that is measured.
    """
    store, folder, count, device = sys.argv[1:5]
    one_pass = prepare(store, folder, device)
    crops = int(count)
    took, labels = {}, []
    for n in (crops // SHORT, crops):
        begin = time.perf_counter()
        labels = one_pass(n)
        took[n] = time.perf_counter() - begin
        assert len(labels) == n, (len(labels), n)
    seconds = took[crops] - took[crops // SHORT]
    result: dict[str, Any] = {
        "rate": round((crops - crops // SHORT) / seconds, 2),
        "seconds": {str(n): round(value, 3) for n, value in took.items()},
        "version": version,
        "labels": labels,
    }
    print(json.dumps(result))
