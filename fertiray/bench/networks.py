"""Networks with random weights, and pictures to run them on: what a benchmark of speed needs."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fertiray.models.preprocess import Normalise, Preprocessing
from fertiray.models.registry import MODELS, ModelSpec, build_model

BLOTCHES = 6  # a side


def preprocessing_of(spec: ModelSpec) -> Preprocessing:
    """Normalisation for a network's input as its paper has it: RGB or grey, and its size."""
    if spec.in_channels == 1:
        return Preprocessing(spec.size, "grey", mean=(0.5,), std=(0.25,))
    return Preprocessing(spec.size)


def pictures(count: int, size: int) -> NDArray[np.uint8]:
    """N x S x S x 3 uint8 blotches of colour, the same each time.

    Unlike noise they still differ after a network's pooling, and so do the probabilities.

    Args:
        count: N.
        size: S in pixels.
    """
    colours = np.random.default_rng(0).integers(
        0, 256, (count, BLOTCHES, BLOTCHES, 3), dtype=np.uint8
    )
    return np.stack([cv2.resize(one, (size, size)) for one in colours]).astype(np.uint8)


def random_network(name: str, crops: NDArray[np.uint8]) -> nn.Module:
    """A network at its paper's input, the same each time, in evaluation mode.

    The statistics of its BatchNorms are those of the crops. With the initial ones maps shrink from
    layer to layer, to probabilities that are all the same and to numbers so small that a CPU
    is slow with them.

    Args:
        name: of a network that classifies.
        crops: N x S x S x 3 uint8, at least two.
    """
    spec = MODELS[name]
    classes = spec.classes if isinstance(spec.classes, int) else 2
    args = {"pretrained": False} if spec.pretrained else {}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = build_model(
            name, classes, in_channels=spec.in_channels, size=spec.size, args=args
        ).train()
        for layer in model.modules():
            if isinstance(layer, _BatchNorm):
                layer.momentum = 1.0  # only the last batch counts
        model(Normalise(preprocessing_of(spec))(torch.from_numpy(crops)))
    return model.eval()
