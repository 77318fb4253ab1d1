"""EfficientNet-B0 with CBAM: attention-guided sperm morphology (sperm_effnet_cbam).

An ImageNet EfficientNet-B0 gives a map of 1280 channels; CBAM (Woo et al. 2018) weights it by
channel, then by place; global average pooling and one linear layer follow. timm's channel attention
is the paper's Eq. 2 and is used as it is; the spatial attention is :class:`SpatialAttention`, which
is Eq. 3 without the BatchNorm that timm adds.

Shapes: N images, C = 1280 channels of the last map, H x W its pixels (7 x 7 at 224).
"""

from __future__ import annotations

from collections.abc import Iterator

from timm.layers.cbam import ChannelAttn
from torch import Tensor, nn

from fertiray.models.layers import SpatialAttention
from fertiray.models.staged import Staged
from fertiray.models.weights import feature_map


class CBAM(nn.Module):
    """Channel attention, then spatial attention: Woo et al. 2018, Eq. 1 to 3.

    ``F' = sigmoid(MLP(avg F) + MLP(max F)) * F``, then ``F'' = sigmoid(conv7x7([mean F'; max F']))
    * F'``; averages and maxima over pixels in the first, over channels in the second.

    Args:
        channels: C.
        reduction: the MLP, without bias, goes from C to C / reduction and back.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.channel = ChannelAttn(channels, rd_ratio=1 / reduction)
        self.spatial = SpatialAttention()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """N x C x H x W to F' and F'' of the same shape with the mask between, N x 1 x H x W."""
        by_channel: Tensor = self.channel(x)
        mask: Tensor = self.spatial(by_channel)
        return by_channel, mask, by_channel * mask


class EffNetCBAM(Staged):
    """Sperm-head images to logits.

    Named tensors: ``features`` (the backbone's map), ``channel`` (after channel attention),
    ``mask`` (spatial attention), ``attention`` (after both: the last convolutional map, which
    Grad-CAM++ looks at), ``embedding`` (N x C), ``logits``.

    Args:
        num_classes: K.
        in_channels: 3 for RGB.
        size: any; the network is convolutional up to its global average.
        pretrained: start the backbone from ImageNet.
        backbone: timm name; another one where only its weights are at hand.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        size: int = 224,
        pretrained: bool = True,
        backbone: str = "efficientnet_b0",
    ) -> None:
        super().__init__()
        del size
        self.backbone, channels = feature_map(
            backbone, in_channels=in_channels, pretrained=pretrained
        )
        self.cbam = CBAM(channels)
        self.classifier = nn.Linear(channels, num_classes)

    def stages(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """From N x C x H x W float; maps are 1/32 of the input's side."""
        x = self.backbone(x)
        yield "features", x
        by_channel, mask, x = self.cbam(x)
        yield "channel", by_channel
        yield "mask", mask
        yield "attention", x
        x = x.mean((2, 3))
        yield "embedding", x
        yield "logits", self.classifier(x)
