"""The detector against scikit-learn and hand computations, on networks and on real stains."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score

from fertiray.data.images import CROP, decode
from fertiray.data.labelled import load_labelled
from fertiray.models.memebg import MEmEBG
from fertiray.models.ood import (
    PIXELS,
    Detector,
    chosen_layers,
    colours,
    fit_detector,
    observe,
    summarise,
)
from fertiray.models.preprocess import Preprocessing, resize_crop
from fertiray.models.registry import MODELS, build_model
from fertiray.models.staged import intermediates


def draws(n, seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(n, 3)) @ np.array([[2, 0.5, 0], [0, 1, 0.3], [0, 0, 0.2]])
    return torch.from_numpy(mixed + shift).float()


def test_one_layer_is_scikit_learns_mahalanobis_distance():
    values, new = draws(200), draws(50, seed=1, shift=1.0)
    detector = fit_detector({"a": values}, np.arange(200))
    expected = LedoitWolf().fit(values.double().numpy()).mahalanobis(new.numpy()) ** 0.5
    found = detector({"a": new}).numpy()
    assert found == pytest.approx(expected * found[0] / expected[0], rel=1e-4)


def test_five_percent_of_familiar_crops_are_above_1():
    detector = fit_detector({"a": draws(2000), "b": draws(2000, seed=3)}, np.arange(2000))
    fresh = detector({"a": draws(5000, seed=5), "b": draws(5000, seed=6)})
    assert (fresh > 1).float().mean().item() == pytest.approx(0.05, abs=0.015)
    far = detector({"a": draws(100, seed=7, shift=9.0), "b": draws(100, seed=8)})
    assert (far > 1).all()  # one layer is enough


def test_a_patients_own_crops_do_not_vouch_for_it():
    """Five patients far apart: held out, each is unlike the others, so 1 is far away."""
    centres = 20 * torch.arange(5).repeat_interleave(20).float()[:, None]
    values = draws(100) + centres
    by_patient = fit_detector({"a": values}, np.arange(5).repeat(20))
    by_crop = fit_detector({"a": values}, np.arange(100))
    assert by_patient.scales["a"] > 1.5 * by_crop.scales["a"]


def test_too_few_crops_or_groups_give_no_detector():
    assert fit_detector({"a": draws(19)}, np.arange(19)) is None
    assert fit_detector({"a": draws(100)}, np.zeros(100, int)) is None


def test_constant_numbers_do_not_break_it():
    values = torch.cat([draws(60), torch.ones(60, 2)], 1)
    detector = fit_detector({"a": values}, np.arange(60))
    changed = values.clone()
    changed[:, -1] = 2
    assert torch.isfinite(detector({"a": values})).all()
    assert (detector({"a": changed}) > 1).all()


def test_state_and_back():
    detector = fit_detector({"a": draws(60), PIXELS: draws(60, 2)}, np.arange(60))
    again = Detector.from_state(detector.state())
    new = {"a": draws(5, 8), PIXELS: draws(5, 9)}
    assert torch.equal(again(new), detector(new))
    assert again.layers == ("a",)


def test_colours_by_hand():
    crop = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    crop[0, 0, 0] = torch.tensor([255, 0, 102])
    expected = [0.25, 0, 0.1, 0.75**0.5 / 2, 0, 0.4 * 0.75**0.5 / 2]
    assert colours(crop)[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["msres", "madrnet_eb0", "efficientnet_lite0", "basic_cnn"])
def test_observing_changes_no_logit(name):
    spec = MODELS[name]
    args = {"pretrained": False} if spec.pretrained else {}
    model = build_model(name, 2, in_channels=spec.in_channels, size=64, args=args).eval()
    x = torch.randn(2, spec.in_channels, 64, 64, generator=torch.Generator().manual_seed(0))
    layers = chosen_layers(model, x[:1])
    assert layers
    with torch.inference_mode():
        logits, found = observe(model, x, layers)
        values = intermediates(model, x)
        assert torch.equal(logits["class"], model(x))
    for layer in layers:
        assert torch.allclose(found[layer], values[layer].mean((2, 3)))


def test_tasks_keep_their_names():
    model = MEmEBG({"EXP": 3, "TE": 2}, size=28, pretrained=False).eval()
    with torch.inference_mode():
        logits, _ = observe(model, torch.randn(1, 3, 28, 28), ())
    assert {task: values.shape[1] for task, values in logits.items()} == {"EXP": 3, "TE": 2}


@pytest.mark.realdata
@pytest.mark.parametrize("frame", ["as_is", "head"])
def test_another_stain_and_another_set_are_told_from_hushem(frame, real_data):
    """ImageNet's EfficientNet-Lite0 as it is; the measured areas are 1.00 in all cases."""
    preprocessing = Preprocessing(size=96, mean=(0.5,) * 3, std=(0.5,) * 3)
    known = ("Normal", "Tapered", "Pyriform", "Amorphous")
    hushem = load_labelled(f"{real_data}/hushem", preprocessing, known, frame=frame)
    model = build_model("efficientnet_lite0", 4, in_channels=3, size=96, args={})
    held_out = np.arange(len(hushem.names)) % 4 == 0
    summaries = summarise(model, preprocessing, hushem.images[~held_out])
    detector = fit_detector(summaries, hushem.groups[~held_out])

    def scores(images):
        return detector(summarise(model, preprocessing, np.ascontiguousarray(images))).numpy()

    own = scores(hushem.images[held_out])
    assert (own > 1).mean() < 0.2
    # Red and blue change places: purple turns blue.
    others = [scores(hushem.images[held_out][..., ::-1])]
    if frame == "as_is":
        files = sorted(Path(real_data, "smids", "Non-Sperm").iterdir())[:60]
        patches = [decode(file.read_bytes(), limits=CROP) for file in files]
        others.append(scores(np.stack([resize_crop(patch, preprocessing) for patch in patches])))
    for other in others:
        truth = np.r_[np.zeros(len(own)), np.ones(len(other))]
        assert roc_auc_score(truth, np.r_[own, other]) >= 0.95
        assert (other > 1).mean() > 0.9
