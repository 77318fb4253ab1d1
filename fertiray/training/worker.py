"""What a training loop knows of the process it runs in, and nothing more.

The loop asks a worker for its rank and device, hands it each epoch's metrics with a state to keep,
and asks it at the start for the state to go on from. :class:`LocalWorker` is one process on one
device; the worker of Ray Train is in :mod:`fertiray.on_ray.train`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from fertiray import storage
from fertiray.models.device import usable

STATE_FILE = "training.safetensors"


class Worker(Protocol):
    """One of ``size`` equal processes of a training.

    Attributes:
        rank: of this process, from 0.
        size: number of processes; with more than one, torch.distributed is initialised.
        device: the torch device to train on.
    """

    rank: int
    size: int
    device: str

    def resume(self) -> bytes | None:
        """The last state that was kept of this training, or None at its beginning."""

    def report(self, metrics: dict[str, Any], state: Callable[[], bytes]) -> None:
        """Takes an epoch's metrics, and the state to go on from; called by every rank.

        ``state`` makes the bytes; they are the same on every rank, so one may keep them for all.
        """


class LocalWorker:
    """One process.

    Args:
        device: a torch device, or ``auto``.
        folder: where the state is kept, local or ``s3://``; None keeps none.
        on_epoch: called with each epoch's metrics.
    """

    rank = 0
    size = 1

    def __init__(
        self,
        device: str = "cpu",
        folder: str | None = None,
        on_epoch: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.device = usable(device)
        self.place = storage.join(folder, STATE_FILE) if folder is not None else None
        self.on_epoch = on_epoch

    def resume(self) -> bytes | None:
        """See :class:`Worker`."""
        if self.place is None or not storage.exists(self.place):
            return None
        return storage.read_bytes(self.place)

    def report(self, metrics: dict[str, Any], state: Callable[[], bytes]) -> None:
        """See :class:`Worker`."""
        if self.place is not None:
            storage.write_bytes(self.place, state())
        if self.on_epoch is not None:
            self.on_epoch(metrics)

    def forget(self) -> None:
        """Deletes the state; the training is over."""
        if self.place is not None:
            storage.remove(self.place)
