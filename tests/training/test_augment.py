"""Augmentation: one draw per crop, seeded, within its limits."""

import torch
from torchvision.transforms.v2 import functional as reference

from fertiray.training.augment import augment, mixup
from fertiray.training.config import Augmentation


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(count: int = 8) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=generator(1))


def test_nothing_asked_nothing_done():
    crops = batch()
    assert torch.equal(augment(crops, Augmentation(), generator()), crops)


def test_hflip_gives_each_crop_or_its_mirror_image():
    crops = batch(64)
    out = augment(crops, Augmentation(hflip=True), generator())
    same = [torch.allclose(a, b, atol=1e-5) for a, b in zip(out, crops, strict=True)]
    mirrored = [
        torch.allclose(a, reference.horizontal_flip(b), atol=1e-5)
        for a, b in zip(out, crops, strict=True)
    ]
    assert all(a != b for a, b in zip(same, mirrored, strict=True))
    assert 16 < sum(mirrored) < 48


def test_rotation_is_a_rotation():
    # A bar through the centre of a square crop, turned by the drawn angle, keeps its length.
    crops = torch.zeros(32, 1, 65, 65)
    crops[:, :, 16:49, 31:34] = 1
    out = augment(crops, Augmentation(rotation=40), generator())
    mass = out.sum((1, 2, 3)) / crops.sum((1, 2, 3))
    assert (mass - 1).abs().max() < 0.05
    columns = out.sum(2)[:, 0]  # a turned bar is spread over more columns
    assert (columns > 0.5).sum(1).float().max() > 12


def test_seeded_and_different_for_each_crop():
    settings = Augmentation(rotation=20, scale=0.1, shift=0.1, gain=0.2, offset=0.2, noise=0.1)
    crops = batch(1).repeat(4, 1, 1, 1)
    first = augment(crops, settings, generator(3))
    assert torch.equal(first, augment(crops, settings, generator(3)))
    assert not torch.equal(first, augment(crops, settings, generator(4)))
    assert not torch.allclose(first[0], first[1])


def test_mixup_blends_crops_and_targets_alike():
    crops, targets = batch(6), torch.eye(6)
    mixed, soft = mixup(crops, targets, 0.4, generator(5))
    assert torch.allclose(soft.sum(1), torch.ones(6))
    # With one-hot targets of their own, the blend weights can be read back from the targets.
    assert torch.allclose(torch.einsum("nk,kchw->nchw", soft, crops), mixed, atol=1e-5)
