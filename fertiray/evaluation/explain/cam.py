"""Heatmaps from feature maps and the gradients of a class's logit with respect to them.

Shapes: N images, C channels, h x w pixels of a feature map, S x S pixels of the network's input.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-6
"""What the reference library adds to the denominator of Grad-CAM++'s alpha."""


def grad_cam(maps: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM, Selvaraju et al. 2017, Eq. 1 and 2, before the ReLU.

    Args:
        maps: N x C x h x w float feature maps A.
        gradients: dy/dA of the class's logit y, same shape.

    Returns:
        N x h x w, the sum over channels of A weighted by the mean gradient of each channel.
    """
    weights = gradients.mean((2, 3), keepdim=True)
    return (weights * maps).sum(1)


def grad_cam_plus_plus(maps: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM++, Chattopadhay et al. 2018, Eq. 5 and 19, before the ReLU.

    The weight of a channel is ``sum(alpha relu(g))`` with ``alpha = g^2 / (2 g^2 + g^3 sum(A))``,
    all over pixels. As in the reference library :data:`EPSILON` is added to alpha's denominator,
    so that of gradients far below its root, 0.001, the strongest count for more than the paper's
    formula says: they are such where the logit is a mean over many pixels.

    Args:
        maps: N x C x h x w float feature maps A; the derivation takes them as not negative.
        gradients: g = dy/dA of the class's logit y, same shape.

    Returns:
        N x h x w.
    """
    square = gradients.square()
    total = maps.sum((2, 3), keepdim=True)
    alpha = square / (2 * square + total * square * gradients + EPSILON)
    weights = (alpha * gradients.relu()).sum((2, 3), keepdim=True)
    return (weights * maps).sum(1)


def saliency(x: Tensor, gradients: Tensor) -> Tensor:
    """Gradient saliency, Simonyan et al. 2013, section 3: the largest |dy/dx| over the channels.

    Args:
        x: N x C x S x S, the network's normalised input.
        gradients: dy/dx of the class's logit y, same shape.

    Returns:
        N x S x S, not negative.
    """
    del x
    return gradients.abs().amax(1)


METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": grad_cam,
    "gradcam++": grad_cam_plus_plus,
    "saliency": saliency,
}


def heat(raw: Tensor, size: int) -> Tensor:
    """What is shown: the positive part, at the input's size, stretched to [0, 1] in each image.

    Args:
        raw: N x h x w of a function above.
        size: S.

    Returns:
        N x S x S float; all zero where the map is the same everywhere.
    """
    positive = raw.relu()[:, None]
    large = F.interpolate(positive, (size, size), mode="bilinear", align_corners=False)[:, 0]
    low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    return torch.where(high > low, (large - low) / (high - low), 0.0)
