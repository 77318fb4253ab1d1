"""Heatmaps of a network's named tensors: all layers from one forward and one backward pass.

The gradients are taken with respect to the tensors that
:func:`fertiray.models.staged.intermediates` names, not through hooks on modules: a map that no
module puts out (the joined streams of MADRNet) is explained like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fertiray.errors import InputError
from fertiray.evaluation.explain.cam import METHODS, heat
from fertiray.models.preprocess import Normalise, Preprocessing
from fertiray.models.staged import intermediates

SALIENCY, INPUT = "saliency", "input"

MSRES_FIGURE = ("stem", "cbm0", "msres0", "cbm1", "msres1", "cbm2", "msres2")

PAPER_LAYERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("msres", "msres_a1", "msres_a2", "msres_a3", "msres_a4"), MSRES_FIGURE),
    **dict.fromkeys(("madrnet", "madrnet_eb0"), ("backbone", "reversible", "attention")),
    "effnet_cbam": ("attention",),
}
"""The layers of the papers' figures by model: embryo_msres Fig. 5, sperm_madrnet Fig. 4 (its
"after the reversible and the bilinear module" is ``attention``, the last map that the pooling
sees) and sperm_effnet_cbam Fig. 4."""


class Explainer:
    """A network with its normalisation, called with crops at the network's size.

    Args:
        model: any classifier of the registry; moved to ``device`` and, at each call, set to
            evaluation mode.
        preprocessing: the network's own.
        device: a torch device.
        batch_size: crops that go through the network at a time.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocessing: Preprocessing,
        device: str = "cpu",
        batch_size: int = 16,
    ) -> None:
        self.model = model.to(device)
        self.preprocessing = preprocessing
        self.normalise = Normalise(preprocessing).to(device)
        self.device = device
        self.batch_size = batch_size

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Names of the N x C x h x w tensors, in the order of computation."""
        return tuple(name for name, value in self.probe().items() if value.ndim == 4)

    def probe(self) -> dict[str, Tensor]:
        """The named tensors of one black crop."""
        size = self.preprocessing.size
        black = torch.zeros(1, size, size, 3, dtype=torch.uint8, device=self.device)
        with torch.no_grad():
            return intermediates(self.model.eval(), self.normalise(black))

    def chosen(self, method: str, layers: Sequence[str] | None) -> tuple[str, ...]:
        """The layers that a call explains: by default the last map before the embedding.

        Raises:
            InputError: an unknown method or layer; lists the valid ones.
        """
        if method not in METHODS:
            raise InputError(f"method {method!r} is unknown; choose one of: {', '.join(METHODS)}")
        valid = (INPUT,) if method == SALIENCY else self.layers
        for name in layers or ():
            if name not in valid:
                raise InputError(
                    f"layer {name!r} is unknown to {method}; choose of: {', '.join(valid)}"
                )
        return tuple(dict.fromkeys(layers or valid[-1:]))

    def __call__(
        self,
        crops: NDArray[np.uint8],
        method: str,
        layers: Sequence[str] | None = None,
        classes: NDArray[np.int64] | None = None,
        task: str | None = None,
    ) -> dict[str, NDArray[np.float32]]:
        """Heatmaps of N crops.

        Args:
            crops: N x S x S x 3 uint8 RGB in [0, 255] at the network's size; N >= 1.
            method: ``gradcam``, ``gradcam++`` or ``saliency``.
            layers: names of :attr:`layers`; see :meth:`chosen`.
            classes: N indices of the classes whose logits are explained; None for the highest.
            task: of a multi-task network; None for its first one.

        Returns:
            N x S x S float32 in [0, 1] by layer; the one layer of saliency is ``input``.

        Raises:
            InputError: an unknown method, layer or task; lists the valid ones.
        """
        names = self.chosen(method, layers)
        wanted = None if classes is None else torch.from_numpy(classes).split(self.batch_size)
        found: dict[str, list[Tensor]] = {name: [] for name in names}
        for number, part in enumerate(torch.from_numpy(crops).split(self.batch_size)):
            own = None if wanted is None else wanted[number].to(self.device)
            with torch.enable_grad():
                maps, gradients = self._gradients(part.to(self.device), names, own, task)
            for name, value, gradient in zip(names, maps, gradients, strict=True):
                raw = METHODS[method](value.detach(), gradient)
                found[name].append(heat(raw, self.preprocessing.size).cpu())
        return {
            name: np.asarray(torch.cat(parts).numpy(), np.float32) for name, parts in found.items()
        }

    def _gradients(
        self, crops: Tensor, names: Sequence[str], classes: Tensor | None, task: str | None
    ) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """The named tensors of a batch, and the gradients of its chosen logits."""
        # Frozen layers pass gradients on only because the input wants one.
        x = self.normalise(crops).requires_grad_()
        values = {INPUT: x, **intermediates(self.model.eval(), x)}
        logits = values[_logits_name(values, task)]
        if classes is None:
            classes = logits.argmax(1)
        # In evaluation mode an image's logit depends on that image alone: their sum will do.
        score = logits.gather(1, classes[:, None]).sum()
        maps = [values[name] for name in names]
        return maps, torch.autograd.grad(score, maps)


def _logits_name(values: dict[str, Tensor], task: str | None) -> str:
    heads = [name for name in values if name.partition(".")[0] == "logits"]
    if task is None:
        return heads[0]
    if f"logits.{task}" not in heads:
        tasks = ", ".join(name.partition(".")[2] for name in heads if "." in name)
        valid = f"choose one of: {tasks}" if tasks else "the network has one only, leave it out"
        raise InputError(f"task {task!r} is unknown; {valid}")
    return f"logits.{task}"
