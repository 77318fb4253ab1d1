"""From uint8 crops to class probabilities, and from probabilities to a label."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fertiray.evaluation.calibration import temper
from fertiray.models.ood import PIXELS, Detector, colours, observe
from fertiray.models.preprocess import Normalise, Preprocessing

Precision = Literal["fp32", "bf16", "fp16"]
Views = Literal["one", "flip", "swing", "dihedral"]

SWING = math.radians(8)  # about the error of a head's axis

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: str, precision: Precision) -> AbstractContextManager[object]:
    """Automatic mixed precision on a device; nothing for ``fp32``."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, DTYPES[precision])


@dataclass(frozen=True)
class Predicted:
    """What a network says about N crops.

    Attributes:
        probabilities: N x K_t float32 by task, averaged over the views, at the temperature.
        spread: N float32 by task, in [0, 0.5]: standard deviation over the views of the
            probability of the class that is the most probable on average; NaN for one view.
        ood: N float32 scores of the detector, above 1 for what is unlike the training's crops;
            None without a detector.
    """

    probabilities: dict[str, NDArray[np.float32]]
    spread: dict[str, NDArray[np.float32]]
    ood: NDArray[np.float32] | None


class Predictor:
    """A network with its normalisation, called with crops at the network's size.

    Args:
        model: the network; moved to ``device`` and, at each call, set to evaluation mode.
        preprocessing: the network's own.
        device: a torch device.
        batch_size: crops that go through the network at a time.
        views: ``one``; ``flip`` averages the probabilities of a crop and its mirror image,
            ``swing`` those of both turned by -8, 0 and 8 degrees, ``dihedral`` those of the eight
            turns and mirrors of a square.
        precision: of the forward pass.
        temperatures: of the averaged probabilities, by task; 1 for a task that is not named.
        detector: of unlike crops; looks at the first view.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocessing: Preprocessing,
        device: str = "cpu",
        batch_size: int = 64,
        views: Views = "one",
        precision: Precision = "fp32",
        *,
        temperatures: Mapping[str, float] | None = None,
        detector: Detector | None = None,
    ) -> None:
        self.model = model.to(device)
        self.normalise = Normalise(preprocessing).to(device)
        self.device = device
        self.batch_size = batch_size
        self.views = views
        self.precision: Precision = precision
        self.temperatures = dict(temperatures or {})
        self.detector = detector

    def __call__(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """N x H x W x 3 uint8 RGB to N x K float32 probabilities."""
        (probabilities,) = self.by_task(crops).values()
        return probabilities

    def by_task(self, crops: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """N x K_t float32 probabilities by task; a network with one task calls it ``class``."""
        return self.predict(crops).probabilities

    @torch.inference_mode()
    def predict(self, crops: NDArray[np.uint8]) -> Predicted:
        """N x H x W x 3 uint8 RGB to all that is said about them."""
        self.model.eval()
        parts = [self._part(part) for part in torch.from_numpy(crops).split(self.batch_size)]
        scores = [ood for _, _, ood in parts if ood is not None]
        return Predicted(
            _joined([probabilities for probabilities, _, _ in parts]),
            _joined([spread for _, spread, _ in parts]),
            _array(torch.cat(scores)) if scores else None,
        )

    def _part(self, crops: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor | None]:
        batch = self.normalise(crops.to(self.device))
        found: dict[str, list[Tensor]] = {}
        ood = None
        with autocast(self.device, self.precision):
            for view in _views(batch, self.views):
                if self.detector is not None and ood is None:
                    logits, summaries = observe(self.model, view, self.detector.layers)
                    ood = self.detector({PIXELS: colours(crops), **summaries})
                else:
                    output = self.model(view)
                    logits = output if isinstance(output, dict) else {"class": output}
                for task, values in logits.items():
                    found.setdefault(task, []).append(values.float().softmax(1))
        stacked = {task: torch.stack(values).cpu() for task, values in found.items()}
        means = {task: values.mean(0) for task, values in stacked.items()}
        spread = {task: _spread(stacked[task], mean) for task, mean in means.items()}
        for task, temperature in self.temperatures.items():
            tempered = temper(means[task].numpy(), temperature)
            means[task] = torch.from_numpy(tempered).float()
        return means, spread, ood


def _spread(values: Tensor, mean: Tensor) -> Tensor:
    """V x N x K probabilities by view and their mean to N deviations."""
    if len(values) == 1:
        return torch.full((len(mean),), torch.nan)
    own = mean.argmax(1).expand(len(values), -1)
    return values.gather(2, own[..., None])[..., 0].std(0, correction=0)


def _joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, NDArray[np.float32]]:
    return {task: _array(torch.cat([part[task] for part in parts])) for task in parts[0]}


def _array(values: Tensor) -> NDArray[np.float32]:
    return np.asarray(values.numpy(), dtype=np.float32)


def _views(batch: Tensor, views: Views) -> Iterator[Tensor]:
    for turned in _turns(batch, views):
        yield turned
        if views != "one":
            yield turned.flip(3)


def _turns(batch: Tensor, views: Views) -> Iterator[Tensor]:
    yield batch
    if views == "dihedral":
        for quarter in (1, 2, 3):
            yield batch.rot90(quarter, (2, 3))
    elif views == "swing":
        for angle in (-SWING, SWING):
            cos, sin = math.cos(angle), math.sin(angle)
            theta = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]]).to(batch)
            grid = F.affine_grid(
                theta.expand(len(batch), 2, 3), list(batch.shape), align_corners=False
            )
            yield F.grid_sample(batch, grid, padding_mode="border", align_corners=False)


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
