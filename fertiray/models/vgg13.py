"""VGG13 on grey sperm heads: who can bind the zona pellucida (zona_vgg13).

torchvision's VGG13 (ten convolutions, adaptive pooling to 7 x 7, three linear layers, the first two
with ReLU and dropout) with its ImageNet weights; the last layer goes to the classes instead of
1000. A grey input meets the first convolution summed over the three colours (see
:mod:`fertiray.models.weights`).

Shapes: N images, 512 x 4 x 4 features of a 128-pixel crop.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import Tensor, nn

from fertiray.models.staged import Staged
from fertiray.models.weights import vgg

Frozen = Literal["features", "all_but_last", "nothing"]


class VGG13(Staged):
    """Grey crops to class logits.

    Named tensors: ``block1`` to ``block5`` (after the ReLU of each block's second convolution),
    ``features`` (N x 25088, what the three-layer classifier takes), ``embedding`` (N x 4096),
    ``logits``.

    Args:
        num_classes: K.
        in_channels: 1 for grey.
        size: any, at least 32 pixels.
        pretrained: start from ImageNet.
        frozen: what is not trained. The paper's "previous layers were frozen" is read as the
            features; ``all_but_last`` is the other reading, that of the tutorial it cites.
    """

    head_input = "features"

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 1,
        size: int = 128,
        pretrained: bool = True,
        frozen: Frozen = "features",
    ) -> None:
        super().__init__()
        if size < 32:
            raise ValueError(f"size must be at least 32 pixels for five max-poolings, got {size}")
        network = vgg("vgg13", num_classes, in_channels=in_channels, pretrained=pretrained)
        self.features, self.classifier = network.features, network.classifier
        self.avgpool = network.avgpool
        if frozen not in ("features", "all_but_last", "nothing"):
            raise ValueError(f"frozen must be features, all_but_last or nothing, got {frozen!r}")
        self.features.requires_grad_(frozen == "nothing")
        self.classifier[:-1].requires_grad_(frozen != "all_but_last")

    def stages(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """From N x C x size x size float; block b has maps of side size / 2^(b - 1)."""
        block = 1
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                yield f"block{block}", x
                block += 1
            x = layer(x)
        x = self.avgpool(x).flatten(1)
        yield "features", x
        *hidden, output = self.classifier
        for layer in hidden:
            x = layer(x)
        yield "embedding", x
        yield "logits", output(x)
