"""MS-Res: the multi-scale residual attention network for embryo viability (embryo_msres).

Mahmood & ALJumaili, "Explainable embryo viability classification using multi-scale residual
attention networks", Fig. 1, sections 3.2 to 3.5, Algorithms 1 and 2. Three stages of 3 x 3
convolution blocks (CBM), each closed by a multi-scale residual block (MS-Res); max-pooling
(3 x 3, stride 2, no padding) after the first two. With repetitions (3, 2, 2) and RGB input it has
2,244,616 parameters and 15.63 G multiply-adds at 224 x 224, the paper's Table 2. It leaves other
numbers of stages to future work (section 3.2): one to four are to be had here, with a max-pooling
between any two, and the fourth twice as wide as the third.

Shapes: N images, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from fertiray.models.layers import SpatialAttention, conv_block
from fertiray.models.staged import Staged

STEM = 32
WIDTHS = (64, 128, 256, 512)


class MSResBlock(nn.Module):
    """Two scales side by side, fused, weighted by place and added to a shortcut (Algorithm 2).

    Args:
        in_channels: C.
        channels: C'; where it differs from C the shortcut is a 1 x 1 convolution (Eq. 6).
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = conv_block(in_channels, channels)  # Eq. 2
        self.depthwise = nn.Sequential(  # Eq. 3
            nn.Conv2d(in_channels, in_channels, 5, padding=2, groups=in_channels, bias=False),
            nn.BatchNorm2d(in_channels),
            nn.ReLU(inplace=True),
        )
        self.pointwise = nn.Sequential(  # Eq. 4
            nn.Conv2d(in_channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        self.fuse = nn.Sequential(  # Eq. 5: no activation
            nn.Conv2d(2 * channels, channels, 1, bias=False), nn.BatchNorm2d(channels)
        )
        self.attention = SpatialAttention()  # Eq. 8 and 9
        same = in_channels == channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """N x C x H x W to the output, N x C' x H x W, and the attention mask, N x 1 x H x W."""
        branches = [self.conv(x), self.pointwise(self.depthwise(x))]
        fused = self.fuse(torch.cat(branches, dim=1))
        mask = self.attention(fused)
        return (fused * mask + self.shortcut(x)).relu(), mask  # Eq. 10 and 7


class MSRes(Staged):
    """Embryo images to logits.

    Named tensors: ``stem``; per stage s = 0, 1, 2 ``cbm<s>`` (its last CBM), ``mask<s>`` (spatial
    attention) and ``msres<s>``; ``pooled`` (N x 256, the width of the last stage); ``embedding``
    (half of it); ``logits``. The paper's seven Grad-CAM layers are ``stem``, ``cbm0..2`` and
    ``msres0..2``.

    Args:
        num_classes: K.
        in_channels: 3 for RGB.
        size: any, at least 8 pixels (16 with four stages); the network is convolutional up to its
            global average.
        repetitions: CBM per stage, for one to four stages. The stem is the first of stage 0, so
            with one repetition stage 0 ends at 32 channels and its MS-Res goes from 32 to 64
            (ablation A1).
        width: scales the number of channels; 1 is the paper's.
    """

    head_input = "pooled"

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        size: int = 224,
        repetitions: Sequence[int] = (3, 2, 2),
        width: float = 1.0,
    ) -> None:
        super().__init__()
        stages = len(repetitions)
        if not 1 <= stages <= len(WIDTHS) or min(repetitions) < 1:
            raise ValueError(
                f"repetitions must be one to four numbers of at least 1, got {repetitions}"
            )
        if size < 2**stages:
            raise ValueError(
                f"size must be at least {2**stages} pixels for its max-poolings: {size}"
            )
        stem, *widths = (round(channels * width) for channels in (STEM, *WIDTHS[:stages]))
        self.stem = conv_block(in_channels, stem)
        self.cbm, self.msres = nn.ModuleList(), nn.ModuleList()
        channels = stem
        for stage, (target, repeats) in enumerate(zip(widths, repetitions, strict=True)):
            blocks = []
            for _ in range(repeats - (stage == 0)):
                blocks.append(conv_block(channels, target))
                channels = target
            self.cbm.append(nn.Sequential(*blocks))
            self.msres.append(MSResBlock(channels, target))
            channels = target
        self.pool = nn.MaxPool2d(3, stride=2)
        hidden = channels // 2
        self.classifier = nn.Sequential(  # Eq. 11
            nn.Dropout(0.5),
            nn.Linear(channels, hidden),
            nn.LayerNorm(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, num_classes),
        )

    def stages(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """From N x C x H x W float, maps of side H, (H - 1) // 2 and so on; see the class."""
        x = self.stem(x)
        yield "stem", x
        for stage, (cbm, msres) in enumerate(zip(self.cbm, self.msres, strict=True)):
            x = cbm(x)
            yield f"cbm{stage}", x
            x, mask = msres(x)
            yield f"mask{stage}", mask
            yield f"msres{stage}", x
            if stage < len(self.cbm) - 1:
                x = self.pool(x)
        x = x.mean((2, 3))
        yield "pooled", x
        *hidden, output = self.classifier
        for layer in hidden:
            x = layer(x)
        yield "embedding", x
        yield "logits", output(x)
