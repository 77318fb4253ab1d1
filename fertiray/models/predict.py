"""From uint8 crops to class probabilities, and from probabilities to a label."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
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

# Names of what a program puts out: probabilities of a task by view, channel means of a layer.
VIEWS, SEEN = "views/", "seen/"
Execute = Callable[[Tensor], dict[str, Tensor]]

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


class Program(nn.Module):
    """Normalisation, network over its views and softmax as one module: what an engine executes.

    Args:
        model: the network.
        preprocessing: its own.
        views: see :class:`Predictor`.
        layers: feature maps whose channel means are put out too, of the first view.
    """

    swings: Tensor

    def __init__(
        self,
        model: nn.Module,
        preprocessing: Preprocessing,
        views: Views = "one",
        layers: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.normalise = Normalise(preprocessing)
        self.views: Views = views
        self.layers = tuple(layers)
        self.register_buffer("swings", _swings(preprocessing.size), persistent=False)

    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        """N x H x W x 3 uint8 RGB to what the network says of it.

        Returns:
            V x N x K_t float32 by :data:`VIEWS` + task, the softmax of each view's logits; N x D by
            :data:`SEEN` + layer.
        """
        batch = self.normalise(crops)
        found: dict[str, list[Tensor]] = {}
        seen: dict[str, Tensor] = {}
        for view in _views(batch, self.views, self.swings):
            if self.layers and not seen:
                logits, seen = observe(self.model, view, self.layers)
            else:
                output = self.model(view)
                logits = output if isinstance(output, dict) else {"class": output}
            for task, values in logits.items():
                found.setdefault(task, []).append(_softmax(values.float()))
        return {
            **{VIEWS + task: torch.stack(values) for task, values in found.items()},
            **{SEEN + layer: values for layer, values in seen.items()},
        }


class Predictor:
    """A network with its normalisation, called with crops at the network's size.

    ``execute`` runs the program; :mod:`fertiray.scoring.engine` has faster ways than ``eager``.

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
        layers = () if detector is None else detector.layers
        self.model = model
        self.program = Program(model, preprocessing, views, layers).to(device)
        self.preprocessing = preprocessing
        self.execute: Execute = self.eager
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

    def predict(self, crops: NDArray[np.uint8]) -> Predicted:
        """N x H x W x 3 uint8 RGB to all that is said about them."""
        parts = [self._part(part) for part in torch.from_numpy(crops).split(self.batch_size)]
        scores = [ood for _, _, ood in parts if ood is not None]
        return Predicted(
            _joined([probabilities for probabilities, _, _ in parts]),
            _joined([spread for _, spread, _ in parts]),
            _array(torch.cat(scores)) if scores else None,
        )

    @torch.inference_mode()
    def eager(self, crops: Tensor) -> dict[str, Tensor]:
        """Runs the program as it is written; see :class:`Program` for what goes in and out."""
        self.program.eval()
        with autocast(self.device, self.precision):
            found: dict[str, Tensor] = self.program(crops.to(self.device))
        return {name: value.float().cpu() for name, value in found.items()}

    def _part(self, crops: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor | None]:
        found = self.execute(crops)
        views = {
            name.removeprefix(VIEWS): value
            for name, value in found.items()
            if name.startswith(VIEWS)
        }
        means = {task: values.mean(0) for task, values in views.items()}
        spread = {task: _spread(views[task], mean) for task, mean in means.items()}
        for task, temperature in self.temperatures.items():
            tempered = temper(means[task].numpy(), temperature)
            means[task] = torch.from_numpy(tempered).float()
        if self.detector is None:
            return means, spread, None
        seen = {layer: found[SEEN + layer] for layer in self.detector.layers}
        return means, spread, self.detector({PIXELS: colours(crops), **seen})


def _softmax(logits: Tensor) -> Tensor:
    """N x K float; NaN in a row with any logit that is not finite: of [-inf, 0] softmax is sure."""
    return torch.where(logits.isfinite().all(1, keepdim=True), logits.softmax(1), torch.nan)


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


def _views(batch: Tensor, views: Views, swings: Tensor) -> Iterator[Tensor]:
    for turned in _turns(batch, views, swings):
        yield turned
        if views != "one":
            yield turned.flip(3)


def _turns(batch: Tensor, views: Views, swings: Tensor) -> Iterator[Tensor]:
    yield batch
    if views == "dihedral":
        for quarter in (1, 2, 3):
            yield batch.rot90(quarter, (2, 3))
    elif views == "swing":
        for grid in swings:
            # Not expand: a converter would fix the number of crops.
            grids = grid.to(batch.dtype) + torch.zeros_like(batch[:, :1, :1, :1])
            yield F.grid_sample(batch, grids, padding_mode="border", align_corners=False)


def _swings(size: int) -> Tensor:
    """Sampling grids of the two turns, 2 x S x S x 2 in [-1, 1] coordinates."""
    turns = [
        [[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]]
        for angle in (-SWING, SWING)
    ]
    return F.affine_grid(torch.tensor(turns), [2, 1, size, size], align_corners=False)


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
