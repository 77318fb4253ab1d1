"""Which crops an epoch sees, in which order, and which of a batch are this worker's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fertiray.training.augment import Draws, mix_draw
from fertiray.training.config import TrainConfig


@dataclass(frozen=True)
class Batch:
    """One step's crops, as this worker sees them.

    Attributes:
        whole: indices of all crops of the batch, B int64.
        start: place of this worker's first crop in ``whole``.
        stop: place after its last one.
        fewest: crops of the worker that has the fewest.
        changed: B bool; whether a crop is augmented.
        draws: one a crop of the whole batch.
        blend: share of a crop itself in MixUp; 1 without.
        partner: place of each crop's MixUp partner in ``whole``.
    """

    whole: Tensor
    start: int
    stop: int
    fewest: int
    changed: Tensor
    draws: Draws
    blend: float
    partner: Tensor

    def pieces(self, count: int) -> Iterator[tuple[int, int]]:
        """This worker's crops in so many runs of places, as even as can be and never empty.

        All workers have the same number of runs: they wait for one another in each.
        """
        edges = np.linspace(self.start, self.stop, min(count, self.fewest) + 1)
        edges = edges.round().astype(int)
        yield from zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)


def epoch_size(labels: NDArray[np.int64], config: TrainConfig) -> int:
    """Crops that an epoch goes through: all, and with ``parity`` the copies too."""
    if not config.parity:
        return len(labels)
    counts = np.bincount(labels)
    return int(counts.max() * (counts > 0).sum())


def steps_per_epoch(labels: NDArray[np.int64], config: TrainConfig, workers: int) -> int:
    """Steps of an epoch; see :func:`batches` for what happens to a short last batch."""
    size = epoch_size(labels, config)
    whole, rest = divmod(size, config.batch_size)
    return max(1, whole + (rest >= max(2, workers)))


def batches(
    training: NDArray[np.int64],
    labels: NDArray[np.int64],
    config: TrainConfig,
    epoch: int,
    rank: int,
    workers: int,
) -> Iterator[Batch]:
    """The batches of an epoch, drawn from the seed and the epoch's number alone.

    A last batch of a single crop, or of fewer crops than workers, is left out: BatchNorm has
    nothing to average, or a worker nothing to do. Another epoch's shuffle has those crops.

    Args:
        training: indices of the training crops.
        labels: class of each of them.
        config: the recipe.
        epoch: from 0.
        rank: of this worker.
        workers: how many there are.
    """
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
    picked, changed = torch.from_numpy(training), torch.ones(len(training), dtype=torch.bool)
    if config.parity:
        copies = torch.from_numpy(_copies(training, labels, config.seed))
        changed = torch.cat([~changed, torch.ones(len(copies), dtype=torch.bool)])
        picked = torch.cat([picked, copies])
    order = torch.randperm(len(picked), generator=generator)
    for places in order.split(config.batch_size)[: steps_per_epoch(labels, config, workers)]:
        count = len(places)
        draws = Draws.make(config.augmentation, count, generator)
        blend, partner = 1.0, torch.arange(count)
        if config.augmentation.mixup:
            blend, partner = mix_draw(count, config.augmentation.mixup, generator)
        start, stop = rank * count // workers, (rank + 1) * count // workers
        yield Batch(
            whole=picked[places],
            start=start,
            stop=stop,
            fewest=count // workers,
            changed=changed[places],
            draws=draws,
            blend=blend,
            partner=partner,
        )


def _copies(training: NDArray[np.int64], labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Indices of the crops whose changed copies bring the smaller classes to parity.

    Every crop of a class is copied as often as the others, to within one.
    """
    random = np.random.default_rng(seed)
    counts = np.bincount(labels)
    found = []
    for number, count in enumerate(counts):
        if count:
            missing = counts.max() - count
            own = random.permutation(training[labels == number])
            found.append(np.resize(own, missing))
    return np.concatenate(found)
