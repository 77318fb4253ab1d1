"""What a network sees as alike: its embedding in two dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import nn

from fertiray.errors import InputError
from fertiray.evaluation.figures.look import SINGLE, blank, colours, look, markers
from fertiray.models.preprocess import Normalise, Preprocessing
from fertiray.models.staged import Staged, intermediates

PERPLEXITY = 15.0
SEED = 42


@torch.inference_mode()
def embeddings(
    model: nn.Module,
    preprocessing: Preprocessing,
    crops: NDArray[np.uint8],
    *,
    device: str = "cpu",
    batch_size: int = 32,
) -> NDArray[np.float32]:
    """What the last layer of a network takes, for every crop.

    Args:
        model: a classifier of the registry; set to evaluation mode and moved to ``device``.
        preprocessing: its own.
        crops: N x S x S x 3 uint8 RGB at the network's size.
        device: a torch device.
        batch_size: crops at a time.

    Returns:
        N x D.
    """
    model.to(device).eval()
    normalise = Normalise(preprocessing).to(device)
    name = getattr(model, "head_input", Staged.head_input)
    parts = [
        intermediates(model, normalise(part.to(device)))[name].flatten(1).float().cpu()
        for part in torch.from_numpy(crops).split(batch_size)
    ]
    return np.asarray(torch.cat(parts).numpy(), np.float32)


def tsne(
    values: ArrayLike, *, perplexity: float = PERPLEXITY, seed: int = SEED
) -> NDArray[np.float32]:
    """Two dimensions that keep neighbours, with the settings of the MADRNet paper.

    They are a perplexity of 15, a start from the principal components, and 42 as random state
    (van der Maaten & Hinton, JMLR 9:2579-2605, 2008).

    Args:
        values: N x D embeddings, D >= 2.
        perplexity: about how many neighbours each point has.
        seed: random state.

    Returns:
        N x 2.

    Raises:
        InputError: not more points than the perplexity, or values that are not finite.
    """
    points = np.asarray(values, np.float32)
    if len(points) <= perplexity:
        raise InputError(
            f"t-SNE: {len(points)} images are too few for a perplexity of {perplexity:g}: give more"
            " images than that"
        )
    bad = int((~np.isfinite(points).all(1)).sum())
    if bad:
        raise InputError(
            f"t-SNE: the embeddings of {bad} of {len(points)} images are not finite numbers: train"
            " the network again"
        )
    # In one thread, whose sums always have the same order.
    with threadpool_limits(1):
        fitted = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(points)
    return np.asarray(fitted, np.float32)


@look()
def embedding_figure(points: ArrayLike, labels: ArrayLike, classes: Sequence[str]) -> Figure:
    """Points by class, each with a colour and a marker.

    Args:
        points: N x 2.
        labels: N true class indices; negative for images that are not graded, which are not drawn.
        classes: names of the K classes.

    Returns:
        A figure one column wide.
    """
    places, truth = np.asarray(points), np.asarray(labels)
    # One scale for both axes, and no more paper than they need.
    wide, high = np.ptp(places, axis=0)
    figure = blank(SINGLE, 20 + float(np.clip(high / wide, 0.5, 1.0)) * (SINGLE - 10))
    axes = figure.subplots()
    marks = zip(classes, colours(len(classes)), markers(len(classes)), strict=True)
    for number, (name, colour, marker) in enumerate(marks):
        own = places[truth == number]
        if len(own):
            axes.scatter(
                own[:, 0], own[:, 1], s=11, c=colour, marker=marker, edgecolors="white",
                linewidths=0.3, label=f"{name} (n = {len(own)})",
            )  # fmt: skip
    axes.set(xticks=[], yticks=[], xlabel="t-SNE 1", ylabel="t-SNE 2")
    axes.set_aspect("equal", adjustable="datalim")
    figure.legend(loc="outside lower center", ncols=2, handletextpad=0.2)
    return figure
