"""Does a heatmap depend on what the network learned? Adebayo et al. 2018, section 3.

Weights are drawn anew and the heatmaps of the same images and classes compared with those of the
trained network: a method whose maps stay alike shows edges of the image, not what was learned.
The maps are compared as they are shown, after ReLU, resizing and stretching, as the MS-Res paper
compares its heatmaps; two maps that light up in different places correlate negatively. A random
head often gives a class no positive evidence anywhere: such flat maps are counted and left out. The
map of a single channel (an attention mask) can only turn its sign, so its correlation says nothing.

A *block* is the unit that is randomised: a network's smallest module that is neither a plain
container nor a whole timm network (an MS-Res block, a bottleneck, a lone layer). Blocks are ordered
by the forward pass, not by their place in the code.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fertiray.evaluation.explain.explainer import Explainer

Mode = Literal["last", "cascade"]
Blocks = dict[str, list[str]]
Heat = NDArray[np.float32]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def sanity(
    explainer: Explainer,
    crops: NDArray[np.uint8],
    method: str,
    mode: Mode,
    *,
    classes: NDArray[np.int64],
    layers: Sequence[str] | None = None,
    task: str | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Correlation of the heatmaps with those of randomised copies of the network.

    Args:
        explainer: of the trained network, which is left as it is.
        crops: N x S x S x 3 uint8 at the network's size.
        method: see :class:`~fertiray.evaluation.explain.explainer.Explainer`.
        mode: ``last`` randomises the block of the last convolution and all that follows it, the
            head included (the MS-Res paper's check); ``cascade`` one block more at a time, from
            the head down to the whole network.
        classes: N class indices, explained in the trained and in the randomised network alike.
        layers: see there.
        task: see there.
        seed: of the weights.

    Returns:
        For each step and layer: ``randomised`` (the lowest block that is), ``layer``, and
        :func:`spread` of the images' Pearson correlations, ``undefined`` counting those left out
        because a map is the same everywhere.
    """
    trained = explainer(crops, method, layers, classes, task)
    model = copy.deepcopy(explainer.model)
    other = Explainer(model, explainer.preprocessing, explainer.device, explainer.batch_size)
    rows = []
    for lowest in randomisations(model, blocks(explainer), mode, seed):
        random = other(crops, method, layers, classes, task)
        for layer, own in trained.items():
            r = correlations(own, random[layer])
            defined = np.isfinite(r)
            rows.append(
                {
                    "randomised": lowest,
                    "layer": layer,
                    **spread(r[defined].tolist()),
                    "undefined": int((~defined).sum()),
                }
            )
    return rows


def correlations(first: Heat, second: Heat) -> NDArray[np.float64]:
    """Pearson's r of each image's two heatmaps; NaN where one is the same everywhere.

    Args:
        first: N x S x S.
        second: N x S x S.
    """
    a, b = (np.asarray(maps, np.float64).reshape(len(maps), -1) for maps in (first, second))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    scale = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    undefined = np.full(len(a), np.nan)
    return np.asarray(np.divide((a * b).sum(1), scale, out=undefined, where=scale > 0))


def spread(values: Sequence[float]) -> dict[str, float | int | None]:
    """``mean``, sample ``sd``, ``min``, ``max`` and ``n``; None where so few values give none."""
    n = len(values)
    return {
        "mean": float(np.mean(values)) if n else None,
        "sd": float(np.std(values, ddof=1)) if n > 1 else None,
        "min": min(values, default=None),
        "max": max(values, default=None),
        "n": n,
    }


def blocks(explainer: Explainer) -> Blocks:
    """The names of the modules with weights, by block, in the order of computation."""
    model = explainer.model
    called: dict[str, int] = {}

    def note(name: str, module: nn.Module, inputs: object) -> None:
        del module, inputs
        called.setdefault(name, len(called))

    hooks = [
        module.register_forward_pre_hook(partial(note, name))
        for name, module in model.named_modules()
    ]
    try:
        explainer.probe()
    finally:
        for hook in hooks:
            hook.remove()

    def place(name: str) -> int:
        """When a module ran; for one that is never called itself, when the module around it did."""
        while name and name not in called:
            name = name.rpartition(".")[0]
        return called.get(name, -1)

    found: Blocks = {}
    weighted = [name for name, module in model.named_modules() if _has_weights(module)]
    for name in sorted(weighted, key=place):
        found.setdefault(_block_of(model, name), []).append(name)
    return found


def randomisations(model: nn.Module, ordered: Blocks, mode: Mode, seed: int) -> Iterator[str]:
    """Randomises a network in place, one step further at a time.

    Args:
        model: is changed.
        ordered: its :func:`blocks`.
        mode: see :func:`sanity`.
        seed: of the weights.

    Yields:
        After each step the name of the lowest block that is random now.
    """
    names = list(ordered)
    if mode == "last":
        names = names[names.index(_last_convolution(model, ordered)) :]
    for number, name in enumerate(reversed(names)):
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed * 10_007 + number)
            for module in ordered[name]:
                _randomise(model.get_submodule(module))
        if mode == "cascade" or name == names[0]:
            yield name


def _last_convolution(model: nn.Module, ordered: Blocks) -> str:
    return [
        block
        for block, names in ordered.items()
        if any(isinstance(model.get_submodule(name), nn.Conv2d) for name in names)
    ][-1]


def _has_weights(module: nn.Module) -> bool:
    own = [*module.parameters(recurse=False)]
    statistics = isinstance(module, nn.BatchNorm2d) and module.track_running_stats
    return bool(own) or statistics


def _block_of(model: nn.Module, name: str) -> str:
    parts = name.split(".")
    for depth in range(1, len(parts)):
        block = ".".join(parts[:depth])
        module = model.get_submodule(block)
        if type(module) not in _CONTAINERS and not hasattr(module, "forward_intermediates"):
            return block
    return name


def _randomise(module: nn.Module) -> None:
    """Draws a module's own weights as for a new network.

    Those that no initialisation is known for (a position embedding) are shuffled, which keeps
    their scale and nothing else.
    """
    reset = getattr(module, "reset_parameters", None)
    if reset is not None:
        reset()
        return
    for weight in module.parameters(recurse=False):
        shuffled = weight.flatten()[torch.randperm(weight.numel(), device=weight.device)]
        weight.copy_(shuffled.view_as(weight))
