"""Random changes of a batch of crops, one draw per crop, on whatever device the batch is.

N crops, C channels, H x W pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from fertiray.training.config import Augmentation


def augment(batch: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Turns, scales, shifts, mirrors and recolours each crop of a batch by its own random draw.

    Pixels that come from outside the crop repeat its border.

    Args:
        batch: N x C x H x W float, normalised.
        settings: the ranges to draw from.
        generator: a CPU generator, so that draws do not depend on the device.

    Returns:
        A new batch of the same shape and dtype.
    """
    count = len(batch)

    def symmetric(limit: float) -> Tensor:
        return (2 * torch.rand(count, generator=generator) - 1) * limit

    turn = symmetric(math.radians(settings.rotation))
    zoom = 1 + symmetric(settings.scale)
    shift_x, shift_y = symmetric(2 * settings.shift), symmetric(2 * settings.shift)
    mirror = torch.ones(count)
    if settings.hflip:
        mirror -= 2 * torch.randint(0, 2, (count,), generator=generator)
    if settings.rotation or settings.scale or settings.shift or settings.hflip:
        cos, sin = turn.cos() / zoom, turn.sin() / zoom
        rows = [cos * mirror, -sin, shift_x, sin * mirror, cos, shift_y]
        theta = torch.stack(rows, 1).view(count, 2, 3).to(batch)
        grid = F.affine_grid(theta, list(batch.shape), align_corners=False)
        batch = F.grid_sample(batch, grid, padding_mode="border", align_corners=False)
    shape = (count, 1, 1, 1)
    if settings.gain:
        mean = batch.mean((1, 2, 3), keepdim=True)
        batch = mean + (batch - mean) * (1 + symmetric(settings.gain)).view(shape).to(batch)
    if settings.offset:
        batch = batch + symmetric(settings.offset).view(shape).to(batch)
    if settings.noise:
        batch = batch + settings.noise * torch.randn(batch.shape, generator=generator).to(batch)
    return batch


def mixup(
    batch: Tensor, targets: Tensor, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """MixUp (Zhang et al. 2018): each batch is blended with a shuffled copy of itself.

    Args:
        batch: N x C x H x W float.
        targets: N x K float class probabilities.
        alpha: both parameters of the Beta distribution that the blend is drawn from; > 0.
        generator: a CPU generator.

    Returns:
        The blended batch and its blended targets.
    """
    # A Beta(a, a) draw is the ratio of two Gamma draws; torch's own Beta takes no generator.
    draw = torch._standard_gamma(torch.full((2,), alpha), generator=generator)
    blend = float(draw[0] / draw.sum().clamp(min=1e-12))
    order = torch.randperm(len(batch), generator=generator)
    mixed = blend * batch + (1 - blend) * batch[order.to(batch.device)]
    return mixed, blend * targets + (1 - blend) * targets[order.to(targets.device)]
