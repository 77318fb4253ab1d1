"""The same numbers on any number of workers: layers that look at a whole batch.

Two kinds of layer depend on more than their own crop: BatchNorm in training averages over the
batch, and dropout draws a mask for it. :class:`WholeBatch` lets both see the batch of all workers,
so that k workers with the same global batch follow one worker's losses within rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fertiray.models import reversible


class WholeBatch(TorchFunctionMode):
    """Within it, BatchNorm and dropout act on the batch of all workers.

    torch's own SyncBatchNorm is for GPUs only and knows torch's own layers only; this works for
    every module that calls ``F.batch_norm`` or ``F.dropout``, on any device.

    Args:
        size: number of workers.
        generator: CPU generator that masks are drawn from, the same on every worker.
        start: place of this worker's first crop in the whole batch.
        batch: crops in the whole batch.
    """

    def __init__(self, size: int, generator: torch.Generator, start: int, batch: int) -> None:
        super().__init__()
        self.size, self.generator, self.start, self.batch = size, generator, start, batch

    def __enter__(self) -> Self:
        """Also for layers that run again in backward."""
        reversible.surroundings.append(self)
        entered: Self = super().__enter__()  # type: ignore[no-untyped-call]
        return entered

    def __exit__(self, *error: object) -> None:
        """Leaves the mode."""
        reversible.surroundings.remove(self)
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Replaces two functions and passes all others on."""
        kwargs = kwargs or {}
        if func is F.dropout:
            return self._dropout(*args, **kwargs)
        if func is F.batch_norm and self.size > 1:
            return self._batch_norm(*args, **kwargs)
        return func(*args, **kwargs)

    def _dropout(
        self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        del inplace
        if not training or p == 0:
            return x
        drawn = torch.rand(self.batch, *x.shape[1:], generator=self.generator)
        kept = drawn[self.start : self.start + len(x)] >= p
        return x * kept.to(x) / (1 - p)

    def _batch_norm(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
        places = [0, *range(2, x.ndim)]
        shape = (1, -1, *(1 for _ in places[1:]))
        wide = x.float()
        count = torch.full((1,), float(x.numel() // x.shape[1]), device=x.device)
        summed = total_of(torch.cat([wide.sum(places), count]))
        total = summed[-1].detach()
        mean = summed[:-1] / total
        centred = wide - mean.view(shape)
        var = total_of(centred.square().sum(places)) / total
        with torch.no_grad():
            if running_mean is not None:
                running_mean.lerp_(mean.detach(), momentum)
            if running_var is not None:
                running_var.lerp_(var.detach() * total / (total - 1).clamp(min=1), momentum)
        y = centred * (var + eps).rsqrt().view(shape)
        if weight is not None and bias is not None:
            y = y * weight.view(shape) + bias.view(shape)
        return y.to(x.dtype)


class _Total(torch.autograd.Function):
    """A sum over workers; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Total.forward(ctx, gradient)


def total_of(x: Tensor) -> Tensor:
    """The sum of a tensor over all workers, of which each may go on with its own gradient.

    Args:
        x: of the same shape on every worker.
    """
    total: Tensor = _Total.apply(x)
    return total


def looks_at_batch(model: nn.Module, size: int) -> bool:
    """Whether a network needs :class:`WholeBatch`: always on several workers, or for dropout."""
    return size > 1 or any(isinstance(m, nn.Dropout) and m.p > 0 for m in model.modules())


def rows_of_all(x: Tensor, start: int, batch: int) -> Tensor:
    """The rows of all workers in the order of the batch, each worker's with their gradient.

    Args:
        x: n x ..., this worker's rows.
        start: place of the first of them in the batch.
        batch: rows of all workers together.

    Returns:
        batch x ...
    """
    before, after = start, batch - start - len(x)
    shape = x.shape[1:]
    return total_of(torch.cat([x.new_zeros(before, *shape), x, x.new_zeros(after, *shape)]))
