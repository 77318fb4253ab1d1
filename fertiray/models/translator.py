"""A trained generator, called with uint8 images."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fertiray.models.preprocess import Normalise, Preprocessing


class Translator:
    """An image-to-image network with its normalisation and the way back to pixels.

    Args:
        generator: from and to N x C x H x W float in [-1, 1]; moved to ``device``.
        preprocessing: its own.
        device: a torch device.
        batch_size: images that go through the network at a time.
    """

    def __init__(
        self,
        generator: nn.Module,
        preprocessing: Preprocessing,
        device: str = "cpu",
        batch_size: int = 32,
    ) -> None:
        self.generator = generator.to(device).eval()
        self.normalise = Normalise(preprocessing).to(device)
        self.device = device
        self.batch_size = batch_size

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """N x H x W x 3 uint8 RGB to the same shape; a grey generator gives equal channels."""
        parts = []
        for part in torch.from_numpy(images).split(self.batch_size):
            x = self.generator(self.normalise(part.to(self.device))).float()
            pixels = (x * self.normalise.std + self.normalise.mean) * 255
            parts.append(pixels.round().clamp(0, 255).byte().expand(-1, 3, -1, -1).cpu())
        return np.ascontiguousarray(torch.cat(parts).permute(0, 2, 3, 1).numpy())
