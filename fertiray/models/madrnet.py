"""MADRNet: morphology-aware dual-path reversible network for sperm heads (sperm_madrnet).

Yang, Sun, Huang, Zhang & Zhang, section III and Fig. 1: backbone features are split by channel in
two streams, which a reversible sequence of n passes mixes; joined again they are pooled to
second-order statistics, embedded, and classified.

The paper gives the totals (44.35 M parameters with ResNet-50, 12.34 M with EfficientNet-B0) but
not the widths. Settled here so that both totals come out within 0.2%: F is one 3 x 3 convolution, G
ends in one; the bottleneck of W_c is a quarter; the two pooled vectors have 32 entries; the layers
after them have 128, 512 and 128. Every row of Tables IV and V and of Fig. 10 is a setting of ``n``,
``bilinear`` and ``acrosome``; the loss terms are the training's.

Shapes: N images, C channels, H x W pixels of a map (16 x 16 for a 512-pixel image).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fertiray.models.reversible import PassFunction, PassNorm, ReversibleSequence
from fertiray.models.staged import Staged
from fertiray.models.weights import feature_map

REDUCTION = 4
POOLED = 32
HIDDEN, SECOND_ORDER, EMBEDDING = 128, 512, 128
EPSILON = 1e-5


class DualAttention(nn.Module):
    """Channel and spatial attention in parallel, Eq. 2 to 4.

    Args:
        channels: C.
        acrosome: multiply the channel weights by the mask of the acrosome constraint (AAC).
    """

    def __init__(self, channels: int, acrosome: bool) -> None:
        super().__init__()
        narrow = channels // REDUCTION
        self.channel = nn.Sequential(  # W_c
            nn.Linear(channels, narrow), nn.ReLU(inplace=True), nn.Linear(narrow, channels)
        )
        self.roi = nn.Linear(channels, channels) if acrosome else None  # F_roi
        self.spatial = nn.Conv2d(channels, 1, 3, padding=1)

    def masks(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The weights of channels, N x C x 1 x 1, and of places, N x 1 x H x W, in (0, 1)."""
        pooled = x.mean((2, 3))
        weights = self.channel(pooled).sigmoid()
        if self.roi is not None:
            weights = weights * self.roi(pooled).sigmoid()  # ROIMask
        return weights[:, :, None, None], self.spatial(x).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W to the same shape."""
        channel, spatial = self.masks(x)
        return x * channel + x * spatial


class ConvFunction(PassFunction):
    """F of Eq. 5 with its normalisation: norm, convolution 3 x 3, norm, ReLU."""

    def __init__(self, channels: int, passes: int) -> None:
        super().__init__()
        self.before = PassNorm(channels, passes)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.after = PassNorm(channels, passes)

    def forward(self, x: Tensor, step: int, update: bool) -> Tensor:
        """N x C x H x W to the same shape."""
        x = self.conv(self.before(x, step, update))
        y: Tensor = self.after(x, step, update).relu()
        return y


class AttentionFunction(PassFunction):
    """G of Eq. 5: dual attention, then a convolution 3 x 3."""

    def __init__(self, channels: int, acrosome: bool) -> None:
        super().__init__()
        self.attention = DualAttention(channels, acrosome)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor, step: int, update: bool) -> Tensor:
        """N x C x H x W to the same shape; the same in every pass."""
        y: Tensor = self.conv(self.attention(x))
        return y


class BilinearPooling(nn.Module):
    """Second-order statistics of two attended projections, Eq. 7 to 10.

    Args:
        channels: C of the map.
        acrosome: as in :class:`DualAttention`.
    """

    def __init__(self, channels: int, acrosome: bool) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, POOLED, 1), DualAttention(POOLED, acrosome))
            for _ in range(2)
        )
        self.output = nn.Sequential(
            nn.Linear(POOLED**2, HIDDEN),
            nn.BatchNorm1d(HIDDEN),
            nn.ReLU(inplace=True),
            nn.Linear(HIDDEN, SECOND_ORDER),
        )

    def attended(self, x: Tensor) -> Tensor:
        """The maps of both branches before their average: N x C x H x W to N x 64 x H x W."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)

    def forward(self, attended: Tensor) -> Tensor:
        """From both branches' maps to N x 512."""
        b1, b2 = attended.mean((2, 3)).chunk(2, dim=1)
        outer = (b1[:, :, None] * b2[:, None, :]).flatten(1)  # N x 1024
        root = outer.sign() * (outer.abs() + EPSILON).sqrt()  # Eq. 9
        pooled: Tensor = self.output(root)
        return pooled


class MADRNet(Staged):
    """Sperm-head images to logits.

    Named tensors: ``backbone`` (N x C x H x W), ``reversible`` (the joined streams, same shape),
    ``attention`` (both pooling branches before their average, N x 64 x H x W), ``pooled``,
    ``embedding`` (N x 128, for the triplet loss), ``logits``. What a switch leaves out has no name.

    Args:
        num_classes: K.
        in_channels: 3 for RGB.
        size: any, at least 32 pixels.
        n: passes of the reversible sequence, 0 to leave it out.
        bilinear: bilinear attention pooling; without it global average pooling.
        acrosome: the acrosome constraint in every dual attention.
        backbone: timm name; ``efficientnet_b0`` for MADRNet-EB0.
        pretrained: start the backbone from ImageNet.
        recompute: rebuild the sequence's activations in backward; see
            :mod:`fertiray.models.reversible`.
        stride_v1: of a ResNet-50 backbone; see :func:`fertiray.models.weights.backbone`.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        size: int = 512,
        n: int = 3,
        bilinear: bool = True,
        acrosome: bool = True,
        backbone: str = "resnet50",
        pretrained: bool = True,
        recompute: bool = True,
        stride_v1: bool = False,
    ) -> None:
        super().__init__()
        del size
        if not 0 <= n <= 6:
            raise ValueError(f"n must be 0 (no reversible sequence) to 6, got {n}")
        self.backbone, channels = feature_map(
            backbone, in_channels=in_channels, pretrained=pretrained, stride_v1=stride_v1
        )
        half = channels // 2
        self.reversible = (
            ReversibleSequence(
                ConvFunction(half, n), AttentionFunction(half, acrosome), n, recompute
            )
            if n
            else None
        )
        self.pooling = BilinearPooling(channels, acrosome) if bilinear else None
        self.embedding = nn.Linear(SECOND_ORDER if bilinear else channels, EMBEDDING)
        self.classifier = nn.Linear(EMBEDDING, num_classes)

    def stages(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """From N x C x H x W float; maps are 1/32 of the input's side."""
        x = self.backbone(x)
        yield "backbone", x
        if self.reversible is not None:
            streams = self.reversible(*x.chunk(2, dim=1))
            x = torch.cat(streams, dim=1).to(x.dtype)
            yield "reversible", x
        if self.pooling is not None:
            x = self.pooling.attended(x)
            yield "attention", x
            x = self.pooling(x)
        else:
            x = x.mean((2, 3))
        yield "pooled", x
        x = self.embedding(x)
        yield "embedding", x
        yield "logits", self.classifier(x)
