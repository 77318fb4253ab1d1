"""CycleGAN: laboratory images into the clinical look, and back (zona_vgg13's first step).

Zhu, Park, Isola & Efros 2017, section 7.1 of the appendix: a generator of residual blocks, a
discriminator that judges 70 x 70 patches, and a pool of 50 past fakes for the discriminator's
updates. Instance normalisation throughout; all weights drawn from N(0, 0.02).

Shapes: N images, C channels in [-1, 1], H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from fertiray.models.staged import Staged


class ResidualBlock(nn.Module):
    """R<k>: two 3 x 3 convolutions with reflection padding, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect"),
            nn.InstanceNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect"),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W to the same shape."""
        y: Tensor = x + self.body(x)
        return y


class CycleGANGenerator(Staged):
    """c7s1-64, d128, d256, R256 x blocks, u128, u64, c7s1-C: an image to an image.

    Named tensors: ``stem``, ``encoded``, ``block1`` ... , ``decoded``, and ``image``.

    Args:
        channels: C, 1 for grey or 3 for RGB.
        size: height and width in pixels, a multiple of 4; it sets the number of blocks.
        blocks: residual blocks; by default the paper's 6 for images up to 128 pixels and 9 above.
        width: channels after the first convolution; 64 is the paper's.
    """

    def __init__(
        self, channels: int, size: int = 128, blocks: int | None = None, width: int = 64
    ) -> None:
        super().__init__()
        if size % 4:
            raise ValueError(f"size must be a multiple of 4, got {size}")
        if blocks is None:
            blocks = 6 if size <= 128 else 9
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 7, padding=3, padding_mode="reflect"),
            nn.InstanceNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.encoder = nn.Sequential(_down(width), _down(2 * width))
        self.blocks = nn.ModuleList(ResidualBlock(4 * width) for _ in range(blocks))
        self.decoder = nn.Sequential(_up(4 * width), _up(2 * width))
        self.output = nn.Conv2d(width, channels, 7, padding=3, padding_mode="reflect")
        self.apply(_initialise)

    def stages(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """From N x C x H x W in [-1, 1]; ``image`` has the same shape and range."""
        x = self.stem(x)
        yield "stem", x
        x = self.encoder(x)
        yield "encoded", x
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            yield f"block{number}", x
        x = self.decoder(x)
        yield "decoded", x
        yield "image", self.output(x).tanh()


class PatchGANDiscriminator(Staged):
    """C64-C128-C256-C512 and one score for each overlapping 70 x 70 patch.

    Named tensors: ``block1`` to ``block4`` and ``logits``. The score of a real patch is trained
    towards 1 and that of a fake towards 0 with squared error (least-squares GAN), so there is no
    sigmoid.

    Args:
        channels: C, 1 for grey or 3 for RGB.
        width: channels after the first convolution; 64 is the paper's.
    """

    def __init__(self, channels: int, width: int = 64) -> None:
        super().__init__()
        widths = (channels, width, 2 * width, 4 * width, 8 * width)
        self.blocks = nn.ModuleList()
        for number, (before, after) in enumerate(pairwise(widths)):
            layers: list[nn.Module] = [
                nn.Conv2d(before, after, 4, stride=2 if number < 3 else 1, padding=1)
            ]
            if number:  # the first layer has no normalisation
                layers.append(nn.InstanceNorm2d(after))
            self.blocks.append(nn.Sequential(*layers, nn.LeakyReLU(0.2, inplace=True)))
        self.output = nn.Conv2d(widths[-1], 1, 4, padding=1)
        self.apply(_initialise)

    def stages(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """From N x C x H x W in [-1, 1] to N x 1 x (H/8 - 2) x (W/8 - 2) scores."""
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            yield f"block{number}", x
        yield "logits", self.output(x)


class ImagePool:
    """The last fakes, mixed into what the discriminator sees (Shrivastava et al. 2017).

    Args:
        size: images kept; 0 passes everything through.
        seed: of the draws.
    """

    def __init__(self, size: int = 50, seed: int = 0) -> None:
        self.size = size
        self.images: list[Tensor] = []
        self.generator = torch.Generator().manual_seed(seed)

    def query(self, fakes: Tensor) -> Tensor:
        """For each new fake, itself or, with probability one half, an older one it replaces.

        Until the pool is full every fake is kept and handed back.

        Args:
            fakes: N x C x H x W; kept without their graph.

        Returns:
            N x C x H x W, detached.
        """
        given = []
        for fake in fakes.detach():
            if len(self.images) < self.size:
                self.images.append(fake.clone())
            elif self.size and torch.rand((), generator=self.generator) < 0.5:
                place = int(torch.randint(self.size, (), generator=self.generator))
                fake, self.images[place] = self.images[place], fake.clone()
            given.append(fake)
        return torch.stack(given)


def _down(channels: int) -> nn.Sequential:
    """D<2k>: 3 x 3 convolution, stride 2."""
    return nn.Sequential(
        nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
        nn.InstanceNorm2d(2 * channels),
        nn.ReLU(inplace=True),
    )


def _up(channels: int) -> nn.Sequential:
    """U<k/2>: 3 x 3 convolution with stride 1/2."""
    return nn.Sequential(
        nn.ConvTranspose2d(channels, channels // 2, 3, stride=2, padding=1, output_padding=1),
        nn.InstanceNorm2d(channels // 2),
        nn.ReLU(inplace=True),
    )


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, std=0.02)
        assert module.bias is not None
        nn.init.zeros_(module.bias)
