"""Parameter randomisation and localisation, on a tiny network that has learned where to look."""

from __future__ import annotations

import copy

import cv2
import numpy as np
import pytest
import torch
from scipy.stats import pearsonr

from fertiray.evaluation.explain.explainer import Explainer
from fertiray.evaluation.explain.localise import head_region, points_inside, share_inside
from fertiray.evaluation.explain.overlay import OPACITY, overlay
from fertiray.evaluation.explain.sanity import (
    blocks,
    correlations,
    randomisations,
    sanity,
    spread,
)
from fertiray.models import build_model
from fertiray.models.preprocess import Preprocessing, resize_crop

SIDE, DISC = 32, 5
HOW = Preprocessing(SIDE, mean=(0.5,) * 3, std=(0.25,) * 3)


def spots(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise with a bright or a dark disc somewhere: the images, which, and where."""
    random = np.random.default_rng(seed)
    images = random.normal(128, 20, (n, SIDE, SIDE, 3)).clip(0, 255).astype(np.uint8)
    labels, where = random.integers(0, 2, n), np.zeros((n, SIDE, SIDE), bool)
    for image, label, mask in zip(images, labels, where, strict=True):
        x, y = random.integers(DISC + 1, SIDE - DISC - 1, 2).tolist()
        cv2.circle(image, (x, y), DISC, (220 if label else 36,) * 3, -1)
        mask[:] = cv2.circle(np.zeros((SIDE, SIDE), np.uint8), (x, y), DISC, 1, -1) > 0
    return images, labels, where


@pytest.fixture(scope="module")
def trained() -> Explainer:
    """The small CNN after 60 steps: all of 48 new images right."""
    torch.manual_seed(0)
    model = build_model("basic_cnn", 2, in_channels=3, size=SIDE, args={})
    explainer = Explainer(model, HOW)
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    images, labels, _ = spots(60 * 16, seed=1)
    inputs = explainer.normalise(torch.from_numpy(images))
    for x, y in zip(inputs.split(16), torch.from_numpy(labels).split(16), strict=True):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    return explainer


def untrained(name: str, size: int, **args: object) -> Explainer:
    torch.manual_seed(0)
    model = build_model(name, 3, in_channels=3, size=size, args=args)
    return Explainer(model, Preprocessing(size))


def test_correlations_are_scipys_and_undefined_for_a_flat_map():
    random = np.random.default_rng(0)
    a, b = random.random((2, 4, 6, 6), dtype=np.float32)
    b[3] = 0
    expected = [pearsonr(x.ravel(), y.ravel()).statistic for x, y in zip(a[:3], b[:3], strict=True)]
    found = correlations(a, b)
    np.testing.assert_allclose(found[:3], expected, atol=1e-6)
    assert np.isnan(found[3])
    np.testing.assert_allclose(correlations(a, 1 - a), -1)  # light where the other is dark


def test_spread_by_hand():
    # Mean 2, sample variance (1 + 0 + 1) / 2 = 1.
    assert spread([1, 2, 3]) == {"mean": 2, "sd": 1, "min": 1, "max": 3, "n": 3}
    assert spread([0.5]) == {"mean": 0.5, "sd": None, "min": 0.5, "max": 0.5, "n": 1}
    assert spread([]) == {"mean": None, "sd": None, "min": None, "max": None, "n": 0}


def test_the_same_weights_give_one_and_random_ones_less(trained):
    images, labels, _ = spots(24, seed=2)
    maps = trained(images, "gradcam", ["conv2"], labels)["conv2"]
    np.testing.assert_allclose(correlations(maps, maps), 1)
    before = copy.deepcopy(trained.model.state_dict())
    means = []
    for seed in range(6):
        rows = sanity(trained, images, "gradcam", "last", classes=labels, seed=seed)
        assert [(row["randomised"], row["layer"]) for row in rows] == [("conv2", "conv2")]
        assert rows[0]["n"] + rows[0]["undefined"] == 24
        if rows[0]["n"]:
            assert -1 <= rows[0]["min"] <= rows[0]["mean"] <= rows[0]["max"] <= 1
            means.append(rows[0]["mean"])
    # Not near zero: a random filter sees the disc too, the only thing there is. But it is as apt
    # to call it evidence against the class as for it.
    assert np.mean(means) < 0.5
    assert np.std(means) > 0.1
    after = trained.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_the_seed_decides_the_weights_and_flat_maps_are_counted(trained):
    images, labels, _ = spots(6, seed=2)

    def run(seed, **how):
        return sanity(trained, images, "gradcam", "cascade", classes=labels, seed=seed, **how)

    first = run(1, layers=["conv1", "conv2"])
    state = torch.get_rng_state()
    assert run(1, layers=["conv1", "conv2"]) == first != run(2, layers=["conv1", "conv2"])
    assert torch.equal(torch.get_rng_state(), state)
    assert [row["randomised"] for row in first[::2]] == ["classifier", "conv2", "conv1"]
    with torch.no_grad():
        blind = copy.deepcopy(trained.model)
        blind.conv1.weight.zero_()
    rows = sanity(
        Explainer(blind, HOW), images, "saliency", "last", classes=labels
    )  # nothing depends on the input
    assert (rows[0]["n"], rows[0]["undefined"], rows[0]["mean"]) == (0, 6, None)


@pytest.mark.parametrize(
    ("name", "size", "args", "last"),
    [
        ("msres", 33, {"width": 0.25}, ["msres.2", "classifier.1", "classifier.2", "classifier.4"]),
        ("effnet_cbam", 64, {"pretrained": False}, ["cbam", "classifier"]),
        ("madrnet_eb0", 64, {"pretrained": False}, ["pooling", "embedding", "classifier"]),
        ("resnet50", 64, {"pretrained": False}, ["layer4.2", "fc"]),
    ],
)
def test_the_last_block_and_the_head_are_those_of_the_paper(name, size, args, last):
    explainer = untrained(name, size, **args)
    ordered, model = blocks(explainer), copy.deepcopy(explainer.model)
    assert [*ordered][-len(last) :] == last
    assert [*randomisations(model, ordered, "last", seed=3)] == last[:1]
    changed = {
        key.rpartition(".")[0]
        for key, value in model.state_dict().items()
        if not torch.equal(value, explainer.model.state_dict()[key])
    }
    assert changed
    assert changed <= {module for block in last for module in ordered[block]}


@pytest.mark.parametrize(
    ("name", "size", "args"),
    [
        ("msres", 33, {"width": 0.25}),
        ("madrnet_eb0", 64, {"pretrained": False}),
        ("memebg", 28, {"pretrained": False, "tasks": {"EXP": 3, "TE": 2}}),
    ],
)
def test_the_cascade_reaches_every_weight_once(name, size, args):
    explainer = untrained(name, size, **args)
    ordered, model = blocks(explainer), explainer.model
    modules = [module for names in ordered.values() for module in names]
    assert len(modules) == len({*modules})
    learned = {key: v for key, v in model.state_dict().items() if v.is_floating_point()}
    for number, value in enumerate(learned.values()):  # unlike any fresh weight
        value.copy_(torch.arange(value.numel()).view(value.shape) % 97 + number + 2)
    before = {key: value.clone() for key, value in learned.items()}
    assert [*randomisations(model, ordered, "cascade", seed=0)] == [*reversed(ordered)]
    after = model.state_dict()
    assert not [key for key, value in before.items() if torch.equal(value, after[key])]


def test_heat_of_a_trained_network_lies_on_what_it_learned(trained):
    images, labels, where = spots(24, seed=3)
    found = trained(images, "gradcam", ["conv1", "conv2"], labels)
    found |= trained(images, "saliency", classes=labels)
    for own in found.values():
        shares = [share_inside(heat, mask) for heat, mask in zip(own, where, strict=True)]
        assert np.mean(shares) > 2 * where.mean()  # the chance level: 8% of the area
    hits = [points_inside(heat, mask) for heat, mask in zip(found["conv2"], where, strict=True)]
    assert np.mean(hits) > 0.9


def test_shares_and_the_pointing_game_by_hand():
    heat = np.array([[0.5, 0.0], [0.25, 1.0]])
    left = np.array([[True, False], [True, False]])
    assert share_inside(heat, left) == pytest.approx(0.75 / 1.75)
    assert points_inside(heat, left) is False
    assert points_inside(heat, ~left) is True
    assert share_inside(np.full((2, 2), 0.3), left) == left.mean()  # flat heat: chance
    assert share_inside(np.zeros((2, 2)), left) is None
    assert points_inside(np.zeros((2, 2)), left) is None


@pytest.mark.parametrize("framed", [False, True])
def test_the_head_is_outlined_where_the_network_sees_it(framed, smear):
    image = smear(120, 120) if framed else smear(170, 130)
    how = Preprocessing(64, window=0.75)
    region = head_region(image, how, framed=framed)
    drawn = np.zeros_like(image)
    cv2.ellipse(
        drawn, (image.shape[1] // 2, image.shape[0] // 2), (18, 30), 0, 0, 360, (255,) * 3, -1
    )
    expected = resize_crop(drawn, how)[..., 0] > 127
    overlap = (region & expected).sum() / (region | expected).sum()
    assert overlap > 0.9
    assert head_region(np.full((64, 64, 3), 220, np.uint8), how, framed=framed) is None


def test_overlay_shows_the_crop_where_it_is_cold_and_viridis_where_it_is_hot():
    crop = np.full((2, 2, 3), 100, np.uint8)
    drawn = overlay(crop, np.array([[0.0, 1.0], [0.5, 0.0]], np.float16))
    assert drawn[0, 0].tolist() == drawn[1, 1].tolist() == [100] * 3
    # matplotlib's table of viridis ends at (253, 231, 37) = #fde725.
    hot = OPACITY * np.array([253, 231, 37]) + (1 - OPACITY) * 100
    np.testing.assert_allclose(drawn[0, 1], hot, atol=1)
    assert drawn.dtype == np.uint8
