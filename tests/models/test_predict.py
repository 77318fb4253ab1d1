"""Averages over views, and the call at a threshold, against plain computations."""

import numpy as np
import pytest
import torch
from scipy.ndimage import rotate

from fertiray.models.predict import Predictor, call
from fertiray.models.preprocess import Preprocessing

GREY = Preprocessing(16, "grey", mean=(0.0,), std=(1.0,))


class Corner(torch.nn.Module):
    """Looks at the upper left quarter, so that it knows one view from another."""

    def forward(self, x):
        corner = x[:, :, :8, :8].mean((1, 2, 3))
        return torch.stack([corner, 1 - corner], 1) * 4


@pytest.fixture
def crops():
    return np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)


def one(crops):
    return Predictor(Corner(), GREY)(np.ascontiguousarray(crops))


def test_flip_and_dihedral_are_means_over_the_views(crops):
    flipped = [one(crops), one(crops[:, :, ::-1])]
    assert np.allclose(Predictor(Corner(), GREY, views="flip")(crops), np.mean(flipped, 0))
    eight = [
        one(view)
        for quarter in range(4)
        for turned in [np.rot90(crops, quarter, (1, 2))]
        for view in (turned, turned[:, :, ::-1])
    ]
    found = Predictor(Corner(), GREY, views="dihedral")(crops)
    assert np.allclose(found, np.mean(eight, 0), atol=1e-6)


def test_swing_is_six_views_turned_as_scipy_turns(crops):
    smooth = np.stack([rotate(crop, 0, (1, 0)) for crop in crops])
    turned = [
        np.stack([rotate(c, a, (1, 0), reshape=False, order=1, mode="nearest") for c in smooth])
        for a in (-8, 0, 8)
    ]
    expected = np.mean([one(v) for t in turned for v in (t, t[:, :, ::-1])], 0)
    found = Predictor(Corner(), GREY, views="swing")(crops)
    assert np.allclose(found, expected, atol=0.01)


def test_precision_changes_little_and_batches_nothing(crops):
    plain = one(crops)
    assert np.allclose(Predictor(Corner(), GREY, batch_size=2)(crops), plain, atol=1e-6)
    assert np.allclose(Predictor(Corner(), GREY, precision="bf16")(crops), plain, atol=0.02)


def test_call_by_hand():
    p = np.array([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.45, 0.05, 0.5]], np.float32)
    assert call(p, positive=0, threshold=0.5).tolist() == [0, 1, 2]
    assert call(p, positive=0, threshold=0.4).tolist() == [0, 1, 0]
    assert call(p, positive=0, threshold=0.501).tolist() == [1, 1, 2]


def test_spread_is_the_deviation_over_the_views(crops):
    views = np.stack([one(crops), one(crops[:, :, ::-1])])
    called = views.mean(0).argmax(1)
    expected = views[:, np.arange(5), called].std(0)
    predicted = Predictor(Corner(), GREY, views="flip").predict(crops)
    assert np.allclose(predicted.spread["class"], expected, atol=1e-6)
    assert np.isnan(Predictor(Corner(), GREY).predict(crops).spread["class"]).all()
    assert predicted.ood is None


def test_temperature_divides_the_logits(crops):
    grey = np.log(one(crops))  # logits up to a constant, which the softmax takes away
    expected = torch.from_numpy(grey / 2).softmax(1).numpy()
    found = Predictor(Corner(), GREY, temperatures={"class": 2.0})(crops)
    assert np.allclose(found, expected, atol=1e-6)
    assert found.dtype == np.float32
