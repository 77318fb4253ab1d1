"""Weights and inputs that depend on a seed and a name only, so that they are the same anywhere."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fertiray.models import build_model


@pytest.fixture(scope="session")
def seeded() -> Callable[[nn.Module], nn.Module]:
    """Fills a network, each tensor from its own name, and puts it into evaluation mode."""

    @torch.no_grad()
    def fill(model: nn.Module) -> nn.Module:
        for name, value in model.state_dict().items():
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            if not value.is_floating_point():
                value.zero_()
            elif name.endswith("running_var"):
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
            elif value.ndim < 2:  # scales near 1, offsets near 0
                value.normal_(std=0.1, generator=generator)
                value.add_(1.0 if name.endswith("weight") else 0.0)
            else:
                fan_in = value[0].numel()
                value.normal_(std=1.4 * fan_in**-0.5, generator=generator)
        return model.eval()

    return fill


@pytest.fixture(scope="session")
def picture() -> Callable[..., Tensor]:
    """Smooth seeded images, N x C x size x size, about zero mean and unit deviation."""

    def draw(n: int, channels: int, size: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.randn(n, channels, 8, 8, generator=generator)
        return nn.functional.interpolate(coarse, size, mode="bilinear", align_corners=False) * 1.5

    return draw


# Every registered network at the smallest input it can be judged at: channels, pixels, arguments.
SMALL: dict[str, tuple[int, int, dict[str, object]]] = {
    "msres": (3, 33, {}),
    "msres_a1": (3, 33, {}),
    "msres_a2": (3, 33, {}),
    "msres_a3": (3, 33, {}),
    "msres_a4": (3, 33, {}),
    "densenet121": (3, 64, {"pretrained": False}),
    "resnet50": (3, 64, {"pretrained": False}),
    "memebg": (3, 56, {"pretrained": False}),
    "memebg_single": (3, 56, {"pretrained": False}),
    "simple_cnn": (3, 32, {}),
    "efficientnet_b0": (3, 64, {"pretrained": False}),
    "effnet_cbam": (3, 64, {"pretrained": False}),
    "efficientnet_lite0": (3, 64, {"pretrained": False}),
    "madrnet": (3, 64, {"pretrained": False}),
    "madrnet_eb0": (3, 64, {"pretrained": False}),
    "vgg13": (1, 64, {"pretrained": False}),
    "resnet34": (1, 64, {"pretrained": False}),
    "basic_cnn": (1, 64, {}),
    "cyclegan_generator": (1, 32, {"width": 16}),
    "cyclegan_discriminator": (1, 64, {"width": 16}),
}


@pytest.fixture(scope="session")
def small() -> Callable[[str], tuple[nn.Module, int, int]]:
    """A registered network at its smallest input, with its channels and pixels."""

    def build(name: str) -> tuple[nn.Module, int, int]:
        channels, size, args = SMALL[name]
        return build_model(name, 2, in_channels=channels, size=size, args=args), channels, size

    return build
