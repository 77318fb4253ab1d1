"""How unlike its training crops is a crop? A distance in what the network sees of it.

A network's last embedding has learned to ignore what does not matter for its classes, and with it
much that says that a crop is not of its kind: another stain lands on the same point. Earlier maps
still tell. So the score takes the crop's own colours (mean and deviation of each channel) and the
channel means of the last feature map at each resolution, measures in each the Mahalanobis distance
from the training crops (Lee et al., NeurIPS 2018, with one Gaussian for all classes), divides it by
the 95th percentile of held-out training crops, and keeps the largest.

Shapes: N crops, D numbers of a layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from torch import Tensor, nn

from fertiray.models.preprocess import Normalise, Preprocessing
from fertiray.models.staged import stages

PIXELS = "pixels"
# Wider maps cost D^2 numbers each, and say less (see the top of this file).
WIDEST = 512
FOLDS = 5
FAMILIAR = 0.95  # share of held-out training crops with a score below 1
FEWEST = 20  # crops; fewer do not tell a spread

Summaries = dict[str, Tensor]


@dataclass(frozen=True)
class Detector:
    """The training crops' moments, layer by layer.

    Attributes:
        means: D float32 by layer.
        whitening: D x D float32 by layer; a whitened difference has its Mahalanobis distance as
            length.
        scales: the distance that counts as 1, by layer.
        scale: the largest scaled distance that counts as 1.
    """

    means: Mapping[str, Tensor]
    whitening: Mapping[str, Tensor]
    scales: Mapping[str, float]
    scale: float

    @property
    def layers(self) -> tuple[str, ...]:
        """Of the network, without the pixels."""
        return tuple(name for name in self.means if name != PIXELS)

    def __call__(self, summaries: Summaries) -> Tensor:
        """N float32 scores, 0 and up: above 1 for 5% of crops like the training's.

        Args:
            summaries: N x D by layer, of :func:`observe`.
        """
        scaled = [
            torch.linalg.vector_norm((summaries[name].cpu() - mean) @ self.whitening[name], dim=1)
            / self.scales[name]
            for name, mean in self.means.items()
        ]
        return torch.stack(scaled).amax(0) / self.scale

    def state(self) -> dict[str, Tensor]:
        """Everything as tensors by name, for a file."""
        found = {"scale": torch.tensor([self.scale], dtype=torch.float64)}
        for name, mean in self.means.items():
            found[f"{name}/mean"] = mean
            found[f"{name}/whitening"] = self.whitening[name].contiguous()
            found[f"{name}/scale"] = torch.tensor([self.scales[name]], dtype=torch.float64)
        return found

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Detector:
        """The inverse of :meth:`state`."""
        names = [key.removesuffix("/mean") for key in state if key.endswith("/mean")]
        return cls(
            {name: state[f"{name}/mean"] for name in names},
            {name: state[f"{name}/whitening"] for name in names},
            {name: state[f"{name}/scale"].item() for name in names},
            state["scale"].item(),
        )


def fit_detector(summaries: Summaries, groups: NDArray[np.int64]) -> Detector | None:
    """The detector of a training's crops.

    Scales come from cross-fitting: each fifth of the groups is measured against the other four, so
    that no patient's crops vouch for themselves.

    Args:
        summaries: N x D by layer.
        groups: N; what belongs together (patients, duplicates).

    Returns:
        None for fewer than 20 crops or 5 groups.
    """
    folds = np.unique(groups, return_inverse=True)[1] % FOLDS
    if len(groups) < FEWEST or len(np.unique(folds)) < FOLDS:
        return None
    held_out = {name: np.empty(len(groups)) for name in summaries}
    for fold in range(FOLDS):
        own = folds == fold
        for name, values in summaries.items():
            mean, whitening = _moments(values[torch.from_numpy(~own)])
            difference = (values[torch.from_numpy(own)] - mean) @ whitening
            held_out[name][own] = torch.linalg.vector_norm(difference, dim=1).numpy()
    scales = {name: float(np.quantile(values, FAMILIAR)) for name, values in held_out.items()}
    largest = np.max([held_out[name] / scales[name] for name in scales], axis=0)
    moments = {name: _moments(values) for name, values in summaries.items()}
    return Detector(
        {name: mean for name, (mean, _) in moments.items()},
        {name: whitening for name, (_, whitening) in moments.items()},
        scales,
        float(np.quantile(largest, FAMILIAR)),
    )


@torch.inference_mode()
def summarise(
    model: nn.Module,
    preprocessing: Preprocessing,
    crops: NDArray[np.uint8],
    device: str = "cpu",
    batch_size: int = 64,
) -> Summaries:
    """What the detector looks at, N x D float32 by layer.

    Args:
        model: any classifier of the registry.
        preprocessing: the network's own.
        crops: N x H x W x 3 uint8 RGB at the network's size.
        device: a torch device; the network stays there.
        batch_size: crops that go through the network at a time.
    """
    model.to(device).eval()
    normalise = Normalise(preprocessing).to(device)
    layers: tuple[str, ...] = ()
    parts: list[Summaries] = []
    for part in torch.from_numpy(crops).split(batch_size):
        batch = normalise(part.to(device))
        layers = layers or chosen_layers(model, batch[:1])
        found = observe(model, batch, layers)[1]
        parts.append({PIXELS: colours(part), **{name: found[name].cpu() for name in layers}})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def chosen_layers(model: nn.Module, x: Tensor) -> tuple[str, ...]:
    """The last feature map at each resolution with at most 512 channels, from the input on.

    Args:
        model: any classifier of the registry.
        x: 1 x C x H x W float, one input.
    """
    by_side: dict[tuple[int, int], str] = {}
    with torch.inference_mode():
        for name, value in stages(model, x):
            if value.ndim == 4 and 2 < value.shape[1] <= WIDEST and value.shape[2] > 1:
                by_side[value.shape[2], value.shape[3]] = name
    return tuple(by_side.values())


def observe(
    model: nn.Module, x: Tensor, layers: Iterable[str]
) -> tuple[dict[str, Tensor], Summaries]:
    """One forward pass: the logits by task, and what the detector looks at.

    Maps are reduced as they are made, so none is kept longer than the network itself keeps it.

    Args:
        model: any classifier of the registry.
        x: N x C x H x W float, normalised.
        layers: names of feature maps.

    Returns:
        N x K logits by task (``class`` where there is one task); N x D channel means by layer.
    """
    wanted = set(layers)
    logits: dict[str, Tensor] = {}
    found: Summaries = {}
    for name, value in stages(model, x):
        if name in wanted:
            found[name] = value.float().mean((2, 3))
        if name == "logits":
            logits["class"] = value
        elif name.startswith("logits."):
            logits[name.removeprefix("logits.")] = value
    return logits, found


def colours(crops: Tensor) -> Tensor:
    """N x H x W x 3 uint8 to N x 6: mean and standard deviation of each channel, in [0, 1]."""
    # OpenCV sums the bytes themselves; as floats they would cost as much as decoding them did.
    moments = np.array([cv2.meanStdDev(crop) for crop in crops.cpu().numpy()])
    return torch.from_numpy(moments.reshape(len(crops), 6) / 255).float()


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and whitening of N x D, with a covariance shrunk as Ledoit and Wolf (2004) do."""
    numbers = values.double().numpy()
    # Constant channels would make the covariance singular; this much is far below any spread.
    covariance = LedoitWolf().fit(numbers).covariance_ + 1e-10 * np.eye(numbers.shape[1])
    variances, axes = np.linalg.eigh(covariance)
    whitening = axes / np.sqrt(np.maximum(variances, 1e-10))
    mean = numbers.mean(0)
    return torch.from_numpy(mean).float(), torch.from_numpy(whitening).float()
