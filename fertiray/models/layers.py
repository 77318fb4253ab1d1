"""Layers that two or more of the networks share.

Shapes: N images, C channels, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv_block(in_channels: int, channels: int) -> nn.Sequential:
    """Convolution 3 x 3 without bias, BatchNorm, ReLU: the "CBM" of Mahmood & ALJumaili, Eq. 1.

    Keeps H x W.
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


class SpatialAttention(nn.Module):
    """A mask from the mean and the maximum over channels: Woo et al. 2018, Eq. 3.

    ``sigmoid(conv7x7([mean; max]))``, the convolution without bias. The same equation is Eq. 8 and
    9 of the MS-Res paper. timm's ``SpatialAttn`` adds a BatchNorm after the convolution, which
    neither paper's equations have.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W to the N x 1 x H x W mask in (0, 1), to be multiplied with x."""
        summary = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        mask: Tensor = self.conv(summary).sigmoid()
        return mask
