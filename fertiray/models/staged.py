"""A network as a sequence of named tensors: what is learned, ablated and explained has a name.

Every network of this package is used in the same two ways: ``model(x)`` gives the logits, and
``intermediates(model, x)`` gives everything on the way to them, by name and in order, as tensors
of the same graph, so that a gradient of the logits with respect to any of them can be taken.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

from torch import Tensor, nn


class Staged(nn.Module, ABC):
    """A network written as a generator of named tensors, of which the last one is ``logits``.

    The forward pass runs the same generator and keeps only what comes last, so a name can never
    stand for something that the network does not compute.

    Attributes:
        head_input: name of the tensor that ``classifier`` takes.
    """

    head_input = "embedding"

    @abstractmethod
    def stages(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yields ``(name, tensor)`` from the input to the logits, in the order of computation."""

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W float to N x K logits."""
        for _, value in self.stages(x):
            x = value
        return x


def intermediates(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """All named tensors of one forward pass, in the order of computation.

    Args:
        model: any classifier of the registry.
        x: N x C x H x W float, normalised as for ``model(x)``.

    Returns:
        By name: feature maps (N x C' x H' x W'), attention maps, ``embedding`` (N x D, the input of
        the last layer) where there is one, and last ``logits`` (N x K), or ``logits.<task>`` for
        each task of a multi-task network. timm's networks name ``stem`` (stride 2), ``stage1`` to
        ``stage4`` (stride 4 to 32), ``features`` (the last map), ``embedding`` and ``logits``.
    """
    return dict(stages(model, x))


def stages(model: nn.Module, x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The same, one ``(name, tensor)`` at a time, so that what is not needed can be let go.

    timm's own networks compute all their maps first.
    """
    return model.stages(x) if isinstance(model, Staged) else _timm_stages(model, x)


def _timm_stages(model: nn.Module, x: Tensor) -> Iterator[tuple[str, Tensor]]:
    features, maps = model.forward_intermediates(x)  # type: ignore[operator]
    yield from zip(("stem", "stage1", "stage2", "stage3", "stage4"), maps, strict=True)
    yield "features", features
    embedding = model.forward_head(features, pre_logits=True)  # type: ignore[operator]
    yield "embedding", embedding
    yield "logits", model.get_classifier()(embedding)  # type: ignore[operator]


class WithIntermediates(nn.Module):
    """A network whose forward gives the named tensors, for losses that need more than logits.

    Wrap this, not the network, in DistributedDataParallel: a loss on an embedding must go through
    the wrapped forward for its gradients to be averaged.

    Args:
        model: any classifier of the registry.
        names: which tensors to give.
    """

    def __init__(self, model: nn.Module, names: Iterable[str] = ("embedding", "logits")) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(names)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """N x C x H x W float to the chosen tensors by name."""
        values = intermediates(self.model, x)
        return {name: values[name] for name in self.names}
