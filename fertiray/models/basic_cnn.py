"""The small CNN of the zona-pellucida paper: two convolutions and one max-pool, from scratch.

The paper (zona_vgg13) gives the number of layers, the input (grey 128 x 128), batch 6, 50 epochs
and learning rate 0.01; the widths are left open. Settled here: both convolutions 5 x 5 with stride
2, 32 and 64 channels, ReLU after each, and a 4 x 4 max-pool, so that the linear layer sees an
8 x 8 map of a 128-pixel crop.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from fertiray.models.staged import Staged


class BasicCNN(Staged):
    """Grey crops to class logits.

    Named tensors: ``conv1``, ``conv2``, ``embedding`` (N x size^2 / 4), ``logits``.

    Args:
        num_classes: number of logits.
        in_channels: channels of the input; 1 for grey.
        size: height and width of the input in pixels, a multiple of 16.
    """

    def __init__(self, num_classes: int, in_channels: int = 1, size: int = 128) -> None:
        super().__init__()
        if size % 16:
            raise ValueError(f"basic_cnn needs an input size that is a multiple of 16, got {size}")
        self.conv1 = nn.Conv2d(in_channels, 32, 5, stride=2, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 5, stride=2, padding=2)
        self.pool = nn.MaxPool2d(4)
        self.classifier = nn.Linear(64 * (size // 16) ** 2, num_classes)

    def stages(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """From N x C x size x size float; maps of side size / 2 and size / 4."""
        x = self.conv1(x).relu()
        yield "conv1", x
        x = self.conv2(x).relu()
        yield "conv2", x
        x = self.pool(x).flatten(1)
        yield "embedding", x
        yield "logits", self.classifier(x)
