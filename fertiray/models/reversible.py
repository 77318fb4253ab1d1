"""A reversible sequence: its activations are recomputed in backward, so memory is flat in n.

Two streams are updated in turn by two functions that all passes share (Yang et al., "MADRNet",
Eq. 5; Gomez et al. 2017):

    x1 <- x1 + F(x2),    x2 <- x2 + G(x1),    repeated n times,

and since each step can be undone (Eq. 6), backward rebuilds the streams from the output instead of
storing them. The gradients are those of plain autograd, up to the rounding of the rebuilt streams.

What to know:

- **BatchNorm.** Each pass has running statistics of its own, under shared scale and offset: a
  shared one would be moved n times a step by n different distributions. They are updated once a
  step and not again in the recomputation.
- **Randomness.** F and G must not draw random numbers: a dropout mask would not be the same in the
  recomputation. MADRNet's have none.
- **Mixed precision.** Under autocast the streams are float32, because ``(a + b) - b`` is not
  ``a`` in bfloat16, and F and G run in the autocast dtype; backward recomputes under the autocast
  state of forward. Training with the parameters themselves in 16 bits rebuilds the streams only
  roughly.
- **DistributedDataParallel** works: gradients reach the parameters through the one autograd node.
- **torch.compile** works with a graph break: in training the sequence runs eagerly between the
  compiled rest, so ``fullgraph=True`` is refused. Without gradients it is traced like any layer.
- Second derivatives are refused.

Shapes: N images, C channels of one stream, H x W pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# What forward runs in and backward enters again, because it runs F and G again; nothing by default.
# torch's own modes do not reach into backward.
surroundings: list[AbstractContextManager[Any]] = []


class PassNorm(nn.Module):
    """BatchNorm with shared scale and offset, and running statistics for each pass.

    Args:
        channels: C.
        passes: n.
    """

    def __init__(self, channels: int, passes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.statistics = nn.ModuleList(
            nn.BatchNorm2d(channels, affine=False) for _ in range(passes)
        )

    def forward(self, x: Tensor, step: int, update: bool) -> Tensor:
        """N x C x H x W to the same shape, as BatchNorm does in its mode.

        Args:
            x: input.
            step: which pass, from 0.
            update: in training mode, whether the running statistics move.
        """
        own: nn.BatchNorm2d = self.statistics[step]  # type: ignore[assignment]
        mean, var = own.running_mean, own.running_var
        assert own.num_batches_tracked is not None
        assert own.momentum is not None
        if own.training and update:
            own.num_batches_tracked.add_(1)
        elif own.training:
            mean = var = None
        return F.batch_norm(
            x, mean, var, self.weight, self.bias, own.training, own.momentum, own.eps
        )


class PassFunction(nn.Module, ABC):
    """What F and G are: a function of a stream, of the pass and of whether statistics move."""

    @abstractmethod
    def forward(self, x: Tensor, step: int, update: bool) -> Tensor:
        """N x C x H x W to the same shape."""


class ReversibleSequence(nn.Module):
    """n passes of the two updates.

    Args:
        f: F, of the second stream.
        g: G, of the first.
        passes: n, at least 1.
        recompute: rebuild the activations in backward; without it plain autograd stores them, for
            comparison.
    """

    def __init__(
        self, f: PassFunction, g: PassFunction, passes: int, recompute: bool = True
    ) -> None:
        super().__init__()
        self.f, self.g = f, g
        self.passes, self.recompute = passes, recompute

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        """Both streams N x C x H x W, in and out."""
        device = x1.device.type
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            x1, x2 = x1.float(), x2.float()
        if self.recompute and torch.is_grad_enabled():
            return _recomputing(self, x1, x2)
        return self.run(x1, x2)

    def run(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 5, n times, in plain operations."""
        for step in range(self.passes):
            x1 = x1 + self.f(x2, step, True)
            x2 = x2 + self.g(x1, step, True)
        return x1, x2

    @torch.no_grad()
    def inverse(self, y1: Tensor, y2: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 6, n times: the input that :meth:`forward` made the output from, in the same mode."""
        for step in reversed(range(self.passes)):
            y2 = y2 - self.g(y1, step, False)
            y1 = y1 - self.f(y2, step, False)
        return y1, y2


class _Recompute(torch.autograd.Function):
    """The sequence as one autograd node that stores its two outputs and nothing else."""

    @staticmethod
    def forward(
        ctx: Any, sequence: ReversibleSequence, x1: Tensor, x2: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        device = x1.device.type
        ctx.sequence = sequence
        ctx.surroundings = tuple(surroundings)
        # Without the cache: it would hand backward the weights that were cast here, without
        # gradients, in place of the parameters.
        ctx.autocast = {
            "device_type": device,
            "dtype": torch.get_autocast_dtype(device),
            "enabled": torch.is_autocast_enabled(device),
            "cache_enabled": False,
        }
        with torch.autocast(**ctx.autocast):
            y1, y2 = sequence.run(x1, x2)
        ctx.save_for_backward(y1, y2)
        return y1, y2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d1: Tensor, d2: Tensor) -> tuple[Tensor | None, ...]:
        sequence: ReversibleSequence = ctx.sequence
        y1, y2 = ctx.saved_tensors
        totals: dict[nn.Parameter, Tensor] = {}
        with torch.autocast(**ctx.autocast), ExitStack() as stack:
            for surrounding in ctx.surroundings:
                stack.enter_context(surrounding)
            for step in reversed(range(sequence.passes)):
                # x2 = y2 - G(y1), and the gradient that reaches y1 through G
                value, through = _pull_back(sequence.g, y1, step, d2, totals)
                y2, d1 = y2 - value, d1 + through
                # x1 = y1 - F(x2), and the gradient that reaches x2 through F
                value, through = _pull_back(sequence.f, y2, step, d1, totals)
                y1, d2 = y1 - value, d2 + through
        return None, d1, d2, *(totals.get(parameter) for parameter in sequence.parameters())


def _pull_back(
    function: PassFunction,
    x: Tensor,
    step: int,
    gradient: Tensor,
    totals: dict[nn.Parameter, Tensor],
) -> tuple[Tensor, Tensor]:
    """The value of a function, recomputed, and the gradient at its input.

    Gradients of the parameters are added to ``totals``.
    """
    parameters = [parameter for parameter in function.parameters() if parameter.requires_grad]
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        value = function(x, step, False)
    through, *own = torch.autograd.grad(value, [x, *parameters], gradient.to(value.dtype))
    for parameter, part in zip(parameters, own, strict=True):
        totals[parameter] = totals[parameter] + part if parameter in totals else part
    return value.detach(), through


def _apply(sequence: ReversibleSequence, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
    apply: Callable[..., tuple[Tensor, Tensor]] = _Recompute.apply
    return apply(sequence, x1, x2, *sequence.parameters())


# Dynamo does not trace a backward that itself calls autograd: it breaks the graph here.
_recomputing: Callable[..., tuple[Tensor, Tensor]] = torch.compiler.disable(_apply)
