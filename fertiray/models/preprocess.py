"""From a decoded crop to a network's input: one description, stored in every checkpoint.

The host only cuts and resizes, so that bytes stay uint8 until they are on the device; colour and
normalisation run inside the model, batched.

Shapes: N crops, H and W pixels, C channels. ``uint8 NHWC`` in, ``float NCHW`` out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Colour = Literal["rgb", "grey", "density"]

# ITU-R BT.601 luma, the weights of OpenCV's and Pillow's own grey conversion.
LUMA = (0.299, 0.587, 0.114)
LARGEST = 4096  # side of a crop, in pixels; see data.images.CROP
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """What happens to a crop before the network's first layer.

    Attributes:
        size: height and width of the network's input in pixels.
        colour: ``rgb``; ``grey`` (luma, one channel); or ``density``: the stain's optical density,
            one channel, free of the stain's colour and of the lamp's brightness (see
            :func:`stain_density`).
        window: share of the crop's side that is kept, centred, in (0, 1].
        mean: subtracted from each channel after scaling to [0, 1].
        std: divides each channel.
    """

    size: int
    colour: Colour = "rgb"
    window: float = 1.0
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        if not 1 <= self.size <= LARGEST or not 0 < self.window <= 1:
            raise ValueError(
                f"size {self.size} must be in [1, {LARGEST}] and window {self.window} in (0, 1]"
            )
        if not len(self.mean) == len(self.std) == self.channels or min(self.std) <= 0:
            raise ValueError(
                f"colour {self.colour!r} needs {self.channels} means and positive deviations,"
                f" got {self.mean} and {self.std}"
            )

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return 3 if self.colour == "rgb" else 1


def resize_crop(image: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """The centred window of a crop at the network's size.

    A crop that is not square is first padded to a square by replicating its border, so that the
    head keeps its proportions.

    Args:
        image: HWC uint8 RGB in [0, 255].
        preprocessing: gives ``size`` and ``window``.

    Returns:
        ``size x size x 3`` uint8 RGB, C-contiguous.
    """
    height, width = image.shape[:2]
    side = max(height, width)
    if height != width:
        top, left = (side - height) // 2, (side - width) // 2
        image = cv2.copyMakeBorder(  # type: ignore[assignment]
            image, top, side - height - top, left, side - width - left, cv2.BORDER_REPLICATE
        )
    if preprocessing.window < 1:
        kept = max(1, round(side * preprocessing.window))
        start = (side - kept) // 2
        image = image[start : start + kept, start : start + kept]
        side = kept
    size = preprocessing.size
    if side != size:
        how = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
        image = cv2.resize(image, (size, size), interpolation=how)  # type: ignore[assignment]
    return np.ascontiguousarray(image)


def stain_density(rgb: Tensor) -> Tensor:
    """Optical density of the stain, on a scale that no stain, lamp or camera gain moves.

    Beer-Lambert: ``density = -log(I / I0)``, averaged over the colour channels with the weight of
    each channel's own absorption. ``I0`` is the crop's own background, taken as the 80th percentile
    of each channel; densities are divided by the crop's 98th percentile, so 0 is background
    and 1 the densest part of the head, whether it was stained pink or blue.

    Args:
        rgb: N x 3 x H x W float in [0, 1].

    Returns:
        N x 1 x H x W float in [0, 1.5].
    """
    flat = rgb.flatten(2)
    pixels = flat.shape[-1]
    background = flat.kthvalue(max(1, round(0.80 * pixels)), dim=-1, keepdim=True).values
    density = -((flat + 0.02) / (background + 0.02)).log()
    weight = density.clamp(min=0).mean(dim=-1, keepdim=True)
    density = (density * weight).sum(1) / weight.sum(1).clamp(min=1e-6)
    scale = density.kthvalue(max(1, round(0.98 * pixels)), dim=-1, keepdim=True).values
    density = (density / scale.clamp(min=0.05)).clamp(0, 1.5)
    return density.reshape(rgb.shape[0], 1, *rgb.shape[2:])


class Normalise(nn.Module):
    """uint8 NHWC crops to the network's normalised float NCHW input, on the model's device."""

    mean: Tensor
    std: Tensor
    luma: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.colour = preprocessing.colour
        shape = (1, -1, 1, 1)
        # Not persistent: the numbers live in the checkpoint's readable description.
        for name, values in (
            ("mean", preprocessing.mean),
            ("std", preprocessing.std),
            ("luma", LUMA),
        ):
            self.register_buffer(name, torch.tensor(values).view(shape), persistent=False)

    def forward(self, crops: Tensor) -> Tensor:
        """N x H x W x 3 uint8 RGB to N x C x H x W float."""
        return self.finish(self.rgb(crops))

    def rgb(self, crops: Tensor) -> Tensor:
        """N x H x W x 3 uint8 RGB to N x 3 x H x W float in [0, 1]."""
        return crops.permute(0, 3, 1, 2).to(self.mean.dtype) / 255

    def finish(self, rgb: Tensor) -> Tensor:
        """N x 3 x H x W float RGB in [0, 1] to the network's N x C x H x W float input."""
        if self.colour == "grey":
            rgb = (rgb * self.luma).sum(1, keepdim=True)
        elif self.colour == "density":
            rgb = stain_density(rgb)
        return (rgb - self.mean) / self.std
