"""From uint8 crops to class probabilities, and from probabilities to a label."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fertiray.models.preprocess import Normalise, Preprocessing


class Predictor:
    """A network with its normalisation, called with crops at the network's size.

    Args:
        model: the network; moved to ``device`` and, at each call, set to evaluation mode.
        preprocessing: the network's own.
        device: a torch device.
        batch_size: crops that go through the network at a time.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocessing: Preprocessing,
        device: str = "cpu",
        batch_size: int = 64,
    ) -> None:
        self.model = model.to(device)
        self.normalise = Normalise(preprocessing).to(device)
        self.device = device
        self.batch_size = batch_size

    @torch.inference_mode()
    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """N x H x W x 3 uint8 RGB to N x K float32 probabilities, the softmax of the logits."""
        self.model.eval()
        parts = [
            self.model(self.normalise(part.to(self.device))).float().softmax(1).cpu()
            for part in torch.from_numpy(crops).split(self.batch_size)
        ]
        return np.asarray(torch.cat(parts).numpy(), dtype=np.float32)

    @torch.inference_mode()
    def by_task(self, crops: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """As calling it, for a multi-task network: N x K_t float32 probabilities by task."""
        self.model.eval()
        parts = [
            self.model(self.normalise(part.to(self.device)))
            for part in torch.from_numpy(crops).split(self.batch_size)
        ]
        return {
            task: torch.cat([part[task].float().softmax(1).cpu() for part in parts]).numpy()
            for task in parts[0]
        }


def call(probabilities: NDArray[np.float32], positive: int, threshold: float) -> NDArray[np.int64]:
    """The class of each crop: the positive one from its threshold on, else the best other.

    Args:
        probabilities: N x K float, rows sum to 1.
        positive: index of the positive class.
        threshold: of the positive class, in [0, 1].

    Returns:
        N int64 class indices.
    """
    others = probabilities.copy()
    others[:, positive] = -1
    return np.where(probabilities[:, positive] >= threshold, positive, others.argmax(1))
