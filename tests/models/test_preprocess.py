"""Preprocessing: from a decoded crop to the network's input."""

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from fertiray.models.predict import call
from fertiray.models.preprocess import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Normalise,
    Preprocessing,
    resize_crop,
    stain_density,
)


@pytest.fixture
def crop() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)


def test_rgb_is_torchvisions_normalisation(crop):
    ours = Normalise(Preprocessing(40))(torch.from_numpy(crop[None]))
    theirs = reference.normalize(
        reference.to_dtype(reference.to_image(crop), torch.float32, scale=True),
        list(IMAGENET_MEAN),
        list(IMAGENET_STD),
    )
    assert torch.allclose(ours[0], theirs, atol=1e-6)


def test_grey_is_opencvs_luma(crop):
    ours = Normalise(Preprocessing(40, "grey", mean=(0.0,), std=(1.0,)))(
        torch.from_numpy(crop[None])
    )
    theirs = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    assert np.abs(255 * ours[0, 0].numpy() - theirs).max() <= 0.51  # OpenCV rounds to bytes


def test_a_crop_that_is_not_square_is_padded_not_squeezed():
    image = np.full((20, 40, 3), 200, np.uint8)
    image[8:12, 18:22] = 0  # a 4 x 4 square stays square
    out = resize_crop(image, Preprocessing(40))
    rows, columns = np.nonzero(out[..., 0] < 100)
    assert np.ptp(rows) == np.ptp(columns) == 3
    assert out.flags["C_CONTIGUOUS"]


def test_the_window_is_centred(crop):
    out = resize_crop(crop, Preprocessing(20, window=0.5))
    assert np.array_equal(out, crop[10:30, 10:30])


def stained(colour, lamp):
    """Beer-Lambert by hand: a dense disc of absorbance 1 in a colour, on a lamp's background."""
    y, x = np.mgrid[:64, :64]
    dye = (np.hypot(x - 32, y - 32) < 14).astype(float) * (0.6 + 0.4 * (y > 32))
    return np.asarray(lamp) * np.exp(-dye[..., None] * np.asarray(colour))


def test_density_does_not_see_colour_lamp_or_gain():
    crops = [
        stained((1.0, 0.8, 0.3), (0.9, 0.9, 0.9)),  # blue stain, white lamp
        stained((0.3, 1.0, 0.6), (0.9, 0.8, 0.7)),  # pink stain, warm lamp
        stained((0.6, 0.5, 0.18), (0.6, 0.6, 0.6)),  # thin blue stain, dim lamp
    ]
    batch = torch.tensor(np.stack(crops)).permute(0, 3, 1, 2).float()
    density = stain_density(batch)
    assert density.shape == (3, 1, 64, 64)
    assert (density[:, 0, 0, 0].abs() < 1e-4).all()  # background
    assert (density[:, 0, 40, 32] > 0.95).all()  # densest part
    for other in (1, 2):
        assert (density[0] - density[other]).abs().max() < 0.06


def test_density_of_a_blank_crop_is_finite_and_zero():
    for value in (0.0, 0.5, 1.0):
        density = stain_density(torch.full((1, 3, 16, 16), value))
        assert torch.isfinite(density).all()
        assert density.max() < 1e-6


@pytest.mark.parametrize(
    "arguments",
    [
        {"size": 0},
        {"size": 8, "window": 1.5},
        {"size": 8, "colour": "grey"},  # three means for one channel
        {"size": 8, "std": (1.0, 0.0, 1.0)},
    ],
)
def test_nonsense_is_refused(arguments):
    with pytest.raises(ValueError, match=r"must|needs"):
        Preprocessing(**arguments)


def test_call_takes_the_positive_class_from_its_threshold_on():
    # By hand, class 1 positive: at the threshold, below it (the best other wins), above it.
    probabilities = np.array([[0.3, 0.4, 0.3], [0.2, 0.39, 0.41], [0.05, 0.9, 0.05]], np.float32)
    assert call(probabilities, 1, 0.4).tolist() == [1, 2, 1]
    assert call(probabilities, 1, 0.41).tolist() == [0, 2, 1]
