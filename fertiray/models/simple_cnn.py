"""SimpleCNN: the baseline from scratch of the attention-guided morphology paper.

The paper (sperm_effnet_cbam) names it and gives its results but not its layers. Settled here: four
blocks of convolution 3 x 3, BatchNorm, ReLU and 2 x 2 max-pooling with 32, 64, 128 and 256
channels, global average pooling, dropout 0.5 and one linear layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor, nn

from fertiray.models.layers import conv_block
from fertiray.models.staged import Staged

WIDTHS = (32, 64, 128, 256)


class SimpleCNN(Staged):
    """Sperm-head images to logits.

    Named tensors: ``block1`` to ``block4`` (before their pooling), ``embedding`` (N x 256),
    ``logits``.

    Args:
        num_classes: K.
        in_channels: 3 for RGB.
        size: any, at least 8 pixels.
    """

    def __init__(self, num_classes: int, in_channels: int = 3, size: int = 224) -> None:
        super().__init__()
        if size < 8:
            raise ValueError(f"size must be at least 8 pixels for three max-poolings, got {size}")
        self.blocks = nn.ModuleList(
            conv_block(before, after) for before, after in pairwise((in_channels, *WIDTHS))
        )
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(WIDTHS[-1], num_classes)

    def stages(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """From N x C x H x W float; maps of side H, H/2, H/4 and H/8."""
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            yield f"block{number}", x
            if number < len(self.blocks):
                x = self.pool(x)
        x = x.mean((2, 3))  # the last pooling is the global average
        yield "embedding", x
        yield "logits", self.classifier(self.dropout(x))
