"""Heatmaps against the reference library (pytorch-grad-cam) and against computations by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from fertiray.errors import InputError
from fertiray.evaluation.explain.cam import grad_cam, grad_cam_plus_plus, heat, saliency
from fertiray.evaluation.explain.explainer import PAPER_LAYERS, Explainer
from fertiray.models import build_model
from fertiray.models.preprocess import Preprocessing
from fertiray.models.staged import Staged, intermediates

REFERENCE = {"gradcam": GradCAM, "gradcam++": GradCAMPlusPlus}
# model, size, its arguments, {our name: the reference's module}
CASES = {
    "msres": (48, {"width": 0.25}, {"stem": "stem", "cbm0": "cbm.0", "cbm2": "cbm.2"}),
    "efficientnet_b0": (64, {"pretrained": False}, {"stem": "blocks.0", "features": "bn2"}),
}
SMALL = {
    "msres_a1": (3, 33, {"width": 0.25}),
    "madrnet_eb0": (3, 64, {"pretrained": False}),
    "effnet_cbam": (3, 64, {"pretrained": False}),
    "densenet121": (3, 64, {"pretrained": False}),
    "simple_cnn": (3, 32, {}),
    "basic_cnn": (1, 32, {}),
}


def network(name: str, size: int, channels: int = 3, seed: int = 0, **args: object) -> Explainer:
    """A seeded network whose normalisations are not the identity, so that no layer is idle."""
    torch.manual_seed(seed)
    model = build_model(name, 3, in_channels=channels, size=size, args=args)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    mean = (0.5,) * channels
    how = Preprocessing(size, "rgb" if channels == 3 else "grey", mean=mean, std=mean)
    return Explainer(model, how)


def pictures(n: int, size: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (n, 6, 6, 3), dtype=np.uint8)
    return np.stack([cv2.resize(one, (size, size)) for one in coarse])


@pytest.mark.parametrize("method", REFERENCE)
@pytest.mark.parametrize("name", CASES)
def test_maps_are_those_of_the_reference_library(name, method):
    size, args, layers = CASES[name]
    explainer = network(name, size, seed=2, **args)
    crops, classes = pictures(3, size), np.array([0, 2, 1])
    ours = explainer(crops, method, [*layers], classes)
    # In float64: where a map nearly cancels, the library's sums over pixels round by 3e-5.
    x = explainer.normalise(torch.from_numpy(crops)).double()
    explainer.model.double()
    for layer, module in layers.items():
        with REFERENCE[method](explainer.model, [explainer.model.get_submodule(module)]) as cam:
            theirs = cam(x, [ClassifierOutputTarget(int(number)) for number in classes])
        assert theirs.max() > 0.99  # there is something to compare
        np.testing.assert_allclose(ours[layer], theirs, atol=1e-5)


def test_grad_cam_by_hand():
    # Two channels of 1 x 2 pixels: weights are the means 2 and -1, so 2 * (1, 3) - (4, 1).
    maps = torch.tensor([[[[1.0, 3.0]], [[4.0, 1.0]]]])
    gradients = torch.tensor([[[[1.0, 3.0]], [[-2.0, 0.0]]]])
    assert grad_cam(maps, gradients).tolist() == [[[-2.0, 5.0]]]


def test_grad_cam_plus_plus_by_hand():
    # One channel (1, 3), sum 4, gradients (1, -1): alpha of the first is 1 / (2 + 4) and the
    # second's gradient is not positive, so the weight is 1/6.
    maps, gradients = torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[[1.0, -1.0]]]])
    found = grad_cam_plus_plus(maps, gradients)
    assert torch.allclose(found, torch.tensor([[[1 / 6, 3 / 6]]]), atol=1e-6)
    assert grad_cam_plus_plus(maps, torch.zeros_like(maps)).tolist() == [[[0.0, 0.0]]]


def test_heat_stretches_the_positive_part_and_survives_a_flat_map():
    raw = torch.tensor([[[-5.0, 0.0], [1.0, 4.0]], [[-1.0, -2.0], [-1.0, -1.0]], [[2.0, 2.0]] * 2])
    shown = heat(raw, 2)
    assert shown[0].tolist() == [[0.0, 0.0], [0.25, 1.0]]
    assert shown[1:].abs().sum() == 0  # nothing positive, nothing that differs
    assert torch.isfinite(heat(torch.full((1, 2, 2), 1e-45).cumsum(1), 9)).all()


class Weighted(Staged):
    """Its logits are sums of the input's pixels with given weights, through one map."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(weights)  # K x C x S x S

    def stages(self, x):
        yield "map", x * 1
        yield "logits", torch.einsum("nchw,kchw->nk", x, self.weights)


def test_saliency_is_the_largest_gradient_over_channels():
    weights = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 3, 5, 5))).float()
    explainer = Explainer(Weighted(weights), Preprocessing(5))
    found = explainer(pictures(2, 5), "saliency", classes=np.array([0, 1]))
    assert [*found] == ["input"]
    for shown, own in zip(found["input"], weights.abs().amax(1).numpy(), strict=True):
        expected = (own - own.min()) / (own.max() - own.min())
        np.testing.assert_allclose(shown, expected, atol=1e-6)
    assert saliency(weights, -weights).equal(weights.abs().amax(1))


def test_all_seven_layers_of_the_msres_figure_come_in_one_call():
    explainer = network("msres", 33, width=0.25)
    assert set(PAPER_LAYERS["msres"]) == {
        *("stem", "cbm0", "cbm1", "cbm2"),
        *("msres0", "msres1", "msres2"),
    }
    found = explainer(pictures(3, 33), "gradcam++", PAPER_LAYERS["msres"])
    assert tuple(found) == PAPER_LAYERS["msres"]
    assert all(own.shape == (3, 33, 33) and own.dtype == np.float32 for own in found.values())
    single = explainer(pictures(3, 33), "gradcam++", ["cbm1"])
    assert np.allclose(single["cbm1"], found["cbm1"], atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_every_map_of_every_kind_of_network_is_explained(name):
    channels, size, args = SMALL[name]
    explainer = network(name, size, channels, **args)
    crops = pictures(3, size)
    for method, layers in (("gradcam", explainer.layers), ("saliency", None)):
        found = explainer(crops, method, layers)
        for own in found.values():
            assert own.shape == (3, size, size)
            assert np.isfinite(own).all()
            assert own.min() >= 0
            assert own.max() <= 1
    assert set(PAPER_LAYERS.get(name, ())) <= {*explainer.layers}
    assert found["input"].max() == 1.0


def test_batches_and_frozen_weights_change_nothing():
    explainer = network("simple_cnn", 32)
    crops = pictures(5, 32)
    whole = explainer(crops, "gradcam", ["block2", "block4"])
    explainer.model.requires_grad_(False).train()  # mode is set at the call
    explainer.batch_size = 2
    with torch.no_grad():
        parts = explainer(crops, "gradcam", ["block2", "block4"])
    for layer, own in whole.items():
        np.testing.assert_allclose(own, parts[layer], atol=1e-5)
    assert all(weight.grad is None for weight in explainer.model.parameters())


def test_gradients_through_the_reversible_sequence_are_those_of_plain_autograd():
    maps = []
    for recompute in (True, False):
        own = network("madrnet_eb0", 64, seed=1, pretrained=False, recompute=recompute)
        maps.append(own(pictures(2, 64), "gradcam", ["backbone", "reversible"]))
    for layer in maps[0]:
        assert maps[0][layer].max() == 1.0
        np.testing.assert_allclose(maps[0][layer], maps[1][layer], atol=1e-4)


def test_each_task_is_explained_by_its_own_logits():
    torch.manual_seed(0)
    args = {"pretrained": False, "tasks": {"EXP": 3, "TE": 2}}
    model = build_model("memebg", 3, in_channels=3, size=28, args=args)
    explainer = Explainer(model, Preprocessing(28))
    crops = pictures(2, 28)
    first, exp, te = (
        explainer(crops, "saliency", task=task)["input"] for task in (None, "EXP", "TE")
    )
    assert np.array_equal(first, exp)
    assert not np.allclose(exp, te)
    x = explainer.normalise(torch.from_numpy(crops)).requires_grad_()
    logits = intermediates(model.eval(), x)["logits.TE"]
    (gradient,) = torch.autograd.grad(logits.amax(1).sum(), x)
    np.testing.assert_allclose(te, heat(saliency(x, gradient), 28).numpy(), atol=1e-5)
    with pytest.raises(InputError, match="choose one of: EXP, TE"):
        explainer(crops, "saliency", task="ICM")


def test_what_is_unknown_is_named_with_what_is_valid():
    explainer = network("simple_cnn", 32)
    crops = pictures(1, 32)
    with pytest.raises(InputError, match=r"'lime'.*gradcam, gradcam\+\+, saliency"):
        explainer(crops, "lime")
    with pytest.raises(InputError, match=r"'msres2'.*block1, block2, block3, block4"):
        explainer(crops, "gradcam", ["msres2"])
    with pytest.raises(InputError, match="'block4' is unknown to saliency"):
        explainer(crops, "saliency", ["block4"])
    with pytest.raises(InputError, match="has one only"):
        explainer(crops, "gradcam", task="EXP")
