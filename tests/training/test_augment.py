"""Every change does what its name says, draws do not depend on how a batch is cut."""

import colorsys
import math

import cv2
import numpy as np
import pytest
import torch

from fertiray.training.augment import Draws, augment, mix_draw, recolour
from fertiray.training.config import Augmentation

EVERYTHING = Augmentation(
    rotation=20, scale=0.1, shift=0.05, shear=5, hflip=True, vflip=True, gain=0.2, offset=0.2,
    noise=0.05, saturation=0.3, hue=0.05, gamma=(0.8, 1.5), blur=0.5,
)  # fmt: skip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def neutral(count, **changes):
    """Draws that change nothing, but for those named."""
    drawn = Draws.make(Augmentation(), count, generator())
    values = {name: getattr(drawn, name) for name in drawn.__dataclass_fields__}
    values |= {name: torch.full((count,), float(value)) for name, value in changes.items()}
    return Draws(**values)


@pytest.fixture
def batch():
    return torch.rand(6, 3, 24, 24, generator=generator(1))


def test_nothing_asked_nothing_changed(batch):
    draws = Draws.make(Augmentation(), 6, generator())
    assert torch.equal(augment(batch, Augmentation(), draws), batch)
    assert torch.equal(recolour(batch, Augmentation(), draws), batch)


def test_parts_of_a_batch_are_changed_as_in_the_whole(batch):
    draws = Draws.make(EVERYTHING, 6, generator())
    whole = augment(recolour(batch, EVERYTHING, draws), EVERYTHING, draws)
    for places in (torch.tensor([0, 1, 2]), torch.tensor([5, 3])):
        own = draws.take(places)
        part = augment(recolour(batch[places], EVERYTHING, own), EVERYTHING, own)
        assert torch.allclose(part, whole[places], atol=1e-6)


def test_mirrors_are_exact(batch):
    settings = Augmentation(hflip=True, vflip=True)
    flipped = augment(batch, settings, neutral(6, mirror_x=-1))
    assert torch.allclose(flipped, batch.flip(3), atol=1e-5)
    flipped = augment(batch, settings, neutral(6, mirror_y=-1))
    assert torch.allclose(flipped, batch.flip(2), atol=1e-5)


def test_a_quarter_turn_is_rot90(batch):
    turned = augment(batch, Augmentation(rotation=90), neutral(6, turn=math.pi / 2))
    assert torch.allclose(turned, batch.rot90(1, (2, 3)), atol=1e-4)


def test_gamma_is_a_power(batch):
    changed = recolour(batch, Augmentation(gamma=(0.5, 2)), neutral(6, gamma=2))
    assert torch.allclose(changed, batch**2, atol=1e-5)


def test_saturation_zero_is_luma(batch):
    grey = recolour(batch, Augmentation(saturation=1), neutral(6, saturation=0))
    luma = 0.299 * batch[:, 0] + 0.587 * batch[:, 1] + 0.114 * batch[:, 2]
    assert torch.allclose(grey, luma[:, None].expand_as(grey), atol=2e-3)


def test_hue_turns_red_towards_green_or_back():
    red = torch.zeros(1, 3, 4, 4)
    red[:, 0] = 0.6
    red[:, 1:] = 0.3
    turned = recolour(red, Augmentation(hue=0.1), neutral(1, hue=math.radians(30)))
    hue, _, _ = colorsys.rgb_to_hsv(*turned[0, :, 0, 0].tolist())
    assert 15 < min(hue * 360, 360 - hue * 360) < 50
    back = recolour(turned, Augmentation(hue=0.1), neutral(1, hue=-math.radians(30)))
    assert torch.allclose(back, red, atol=1e-3)


def test_blur_is_opencvs(batch):
    blurred = recolour(batch, Augmentation(blur=1), neutral(6, sigma=0.8))
    image = np.ascontiguousarray(batch[2].permute(1, 2, 0).numpy())
    expected = cv2.GaussianBlur(image, (5, 5), 0.8, borderType=cv2.BORDER_REPLICATE)
    assert np.allclose(blurred[2].permute(1, 2, 0).numpy(), expected, atol=1e-5)
    sharp = recolour(batch, Augmentation(blur=1), neutral(6, sigma=0))
    assert torch.allclose(sharp, batch, atol=1e-6)


def test_draws_stay_within_what_was_asked():
    draws = Draws.make(EVERYTHING, 4000, generator())
    limits = {
        "turn": (-math.radians(20), math.radians(20)),
        "zoom": (0.9, 1.1),
        "gain": (0.8, 1.2),
        "gamma": (0.8, 1.5),
        "sigma": (0, 1),
        "mirror_x": (-1, 1),
    }
    for name, (low, high) in limits.items():
        values = getattr(draws, name)
        assert low - 1e-6 <= values.min() <= low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) <= values.max() <= high + 1e-6
    assert (draws.sigma > 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert draws.mirror_y.mean().item() == pytest.approx(0, abs=0.06)


def test_mixup_blend_is_beta():
    """Mean 1/2 and variance 1 / (4 (2a + 1)) of Beta(a, a)."""
    random = generator()
    blends = [mix_draw(2, 0.4, random)[0] for _ in range(4000)]
    assert np.mean(blends) == pytest.approx(0.5, abs=0.02)
    assert np.var(blends) == pytest.approx(1 / (4 * 1.8), abs=0.01)
    assert sorted(mix_draw(9, 0.4, random)[1].tolist()) == list(range(9))
