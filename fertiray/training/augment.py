"""Random changes of a batch of crops, one draw per crop, on whatever device the batch is.

The draws of a whole batch are made at once on the CPU and can then be cut into the parts of several
workers, so that a crop is changed in the same way wherever it is processed.

N crops, C channels, H x W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from fertiray.training.config import Augmentation

# Rec. 601 luma and the two chroma axes of YIQ, in which a turn of the hue is a rotation.
_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_BLUR = 5


@dataclass(frozen=True)
class Draws:
    """One random draw for each of N crops; N float32 each, ``noise`` one seed a crop."""

    turn: Tensor
    zoom: Tensor
    shear: Tensor
    shift_x: Tensor
    shift_y: Tensor
    mirror_x: Tensor
    mirror_y: Tensor
    gain: Tensor
    offset: Tensor
    saturation: Tensor
    hue: Tensor
    gamma: Tensor
    sigma: Tensor
    noise: Tensor

    @classmethod
    def make(cls, settings: Augmentation, count: int, generator: torch.Generator) -> Draws:
        """Draws for ``count`` crops, in a fixed order from a CPU generator."""

        def uniform() -> Tensor:
            return torch.rand(count, generator=generator)

        def symmetric(limit: float) -> Tensor:
            return (2 * uniform() - 1) * limit

        def sign(wanted: bool) -> Tensor:
            drawn = torch.where(uniform() < 0.5, -1.0, 1.0)
            return drawn if wanted else torch.ones(count)

        low, high = math.log(settings.gamma[0]), math.log(settings.gamma[1])
        return cls(
            turn=symmetric(math.radians(settings.rotation)),
            zoom=1 + symmetric(settings.scale),
            shear=symmetric(math.radians(settings.shear)).tan(),
            shift_x=symmetric(2 * settings.shift),
            shift_y=symmetric(2 * settings.shift),
            mirror_x=sign(settings.hflip),
            mirror_y=sign(settings.vflip),
            gain=1 + symmetric(settings.gain),
            offset=symmetric(settings.offset),
            saturation=1 + symmetric(settings.saturation),
            hue=symmetric(2 * math.pi * settings.hue),
            gamma=(low + (high - low) * uniform()).exp(),
            sigma=torch.where(uniform() < settings.blur, 0.1 + 0.9 * uniform(), 0.0 * uniform()),
            noise=torch.randint(2**62, (count,), generator=generator),
        )

    def take(self, places: Tensor) -> Draws:
        """The draws of some of the crops."""
        return Draws(*(getattr(self, field.name)[places] for field in fields(self)))


def recolour(rgb: Tensor, settings: Augmentation, draws: Draws) -> Tensor:
    """Changes gamma, saturation, hue and sharpness of each crop by its own draw.

    Args:
        rgb: N x 3 x H x W float RGB in [0, 1].
        settings: which changes are asked for.
        draws: one a crop.

    Returns:
        A batch of the same shape, in [0, 1].
    """
    each = (-1, 1, 1, 1)
    if settings.gamma != (1.0, 1.0):
        rgb = rgb.clamp(min=1e-6) ** draws.gamma.view(each).to(rgb)
    if settings.saturation or settings.hue:
        yiq = _YIQ.to(rgb)
        luma, chroma = torch.einsum("ij,njhw->nihw", yiq, rgb).split([1, 2], 1)
        cos = (draws.saturation * draws.hue.cos()).view(each).to(rgb)
        sin = (draws.saturation * draws.hue.sin()).view(each).to(rgb)
        turned = torch.cat([luma, chroma * cos + chroma.flip(1) * sin * _quarter(rgb)], 1)
        rgb = torch.einsum("ij,njhw->nihw", yiq.inverse(), turned).clamp(0, 1)
    if settings.blur:
        rgb = _blurred(rgb, draws.sigma.to(rgb))
    return rgb


def augment(batch: Tensor, settings: Augmentation, draws: Draws) -> Tensor:
    """Turns, scales, shears, shifts, mirrors and changes the contrast of each crop by its draw.

    Pixels that come from outside the crop repeat its border.

    Args:
        batch: N x C x H x W float, normalised.
        settings: which changes are asked for.
        draws: one a crop.

    Returns:
        A batch of the same shape and dtype.
    """
    if _moves(settings):
        cos, sin = draws.turn.cos() / draws.zoom, draws.turn.sin() / draws.zoom
        across = cos * draws.shear - sin
        down = sin * draws.shear + cos
        rows = [cos * draws.mirror_x, across * draws.mirror_y, draws.shift_x]
        rows += [sin * draws.mirror_x, down * draws.mirror_y, draws.shift_y]
        theta = torch.stack(rows, 1).view(-1, 2, 3).to(batch)
        grid = F.affine_grid(theta, list(batch.shape), align_corners=False)
        batch = F.grid_sample(batch, grid, padding_mode="border", align_corners=False)
    each = (-1, 1, 1, 1)
    if settings.gain:
        mean = batch.mean((1, 2, 3), keepdim=True)
        batch = mean + (batch - mean) * draws.gain.view(each).to(batch)
    if settings.offset:
        batch = batch + draws.offset.view(each).to(batch)
    if settings.noise:
        noise = [
            torch.randn(batch.shape[1:], generator=torch.Generator().manual_seed(seed))
            for seed in draws.noise.tolist()
        ]
        batch = batch + settings.noise * torch.stack(noise).to(batch)
    return batch


def mix_draw(count: int, alpha: float, generator: torch.Generator) -> tuple[float, Tensor]:
    """The blend and the partners of MixUp (Zhang et al. 2018) for a batch of ``count`` crops.

    Args:
        count: crops.
        alpha: both parameters of the Beta distribution that the blend is drawn from; > 0.
        generator: a CPU generator.

    Returns:
        The share of a crop itself, in [0, 1], and the place of its partner, N int64.
    """
    # A Beta(a, a) draw is the ratio of two Gamma draws; torch's own Beta takes no generator.
    draw = torch._standard_gamma(torch.full((2,), alpha), generator=generator)
    return float(draw[0] / draw.sum().clamp(min=1e-12)), torch.randperm(count, generator=generator)


def _moves(settings: Augmentation) -> bool:
    amounts = (settings.rotation, settings.scale, settings.shift, settings.shear)
    return any(amounts) or settings.hflip or settings.vflip


def _quarter(like: Tensor) -> Tensor:
    """The signs of a quarter turn: (i, q) times them, swapped, is (-q, i)."""
    return torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1).to(like)


def _blurred(rgb: Tensor, sigma: Tensor) -> Tensor:
    """Each crop under its own 5 x 5 Gaussian; sigma 0 leaves it as it is."""
    count, channels, height, width = rgb.shape
    place = torch.arange(_BLUR, device=rgb.device, dtype=rgb.dtype) - _BLUR // 2
    row = torch.exp(-(place**2) / (2 * sigma.clamp(min=1e-3) ** 2)[:, None])
    row = row / row.sum(1, keepdim=True)
    kernels = (row[:, :, None] * row[:, None, :]).repeat_interleave(channels, 0)[:, None]
    padded = F.pad(rgb, (_BLUR // 2,) * 4, mode="replicate")
    stacked = padded.reshape(1, count * channels, *padded.shape[2:])
    blurred = F.conv2d(stacked, kernels, groups=count * channels)
    return blurred.reshape(count, channels, height, width)
