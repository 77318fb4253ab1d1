"""How far apart two looks are, on images whose difference is known."""

import cv2
import numpy as np
import pytest

from fertiray.evaluation.domains import (
    check_domains,
    dark_iou,
    domain_auc,
    domain_gap,
    grey,
    look_features,
    sample_sheet,
)


def noise(count: int, level: float, spread: float, seed: int) -> np.ndarray:
    grey_levels = np.random.default_rng(seed).normal(level, spread, (count, 24, 24, 1))
    return grey_levels.clip(0, 255).astype(np.uint8).repeat(3, axis=-1)


def disc(x: int, radius: int = 6) -> np.ndarray:
    image = np.full((32, 32, 3), 200, np.uint8)
    cv2.circle(image, (x, 16), radius, (40, 40, 40), -1)
    return image


def test_auc_is_one_half_for_the_same_look_and_one_for_another():
    # 200 of each: the AUC's standard error without a difference is sqrt(401 / (12 * 200**2)) = .029
    same = domain_auc(noise(200, 128, 20, 1), noise(200, 128, 20, 2))
    assert same == pytest.approx(0.5, abs=0.09)
    assert domain_auc(noise(50, 128, 20, 1), noise(50, 150, 20, 2)) == 1.0  # brightness
    assert domain_auc(noise(50, 128, 20, 1), noise(50, 128, 10, 2)) == 1.0  # noise
    between = domain_auc(noise(100, 128, 20, 1), noise(100, 128.6, 20, 2))
    assert 0.55 < between < 0.95


def test_auc_needs_two_images_of_each():
    assert domain_auc(noise(1, 128, 20, 1), noise(9, 128, 20, 2)) is None
    assert domain_auc(noise(2, 60, 5, 1), noise(3, 200, 5, 2)) == 1.0


def test_features_are_shares():
    features = look_features(noise(1, 128, 20, 0)[0])
    assert features.shape == (22,)
    assert features[:16].sum() == pytest.approx(1)
    assert features[16:].sum() == pytest.approx(1)
    flat = look_features(np.full((8, 8, 3), 100, np.uint8))
    assert flat[6] == 1  # 100 lies in [96, 112)
    assert flat[16] == 1  # no gradient


def test_gap_is_the_share_of_pixels_that_differ():
    one = np.full((4, 10, 10, 3), 200, np.uint8)
    other = one.copy()
    assert domain_gap(one, other) == 0
    other[:] = 100
    assert domain_gap(one, other) == 1
    wide = np.full((4, 10, 10, 3), 200, np.uint8)
    wide[:, :, 7:] = 201  # the same of the 16 grey levels
    assert domain_gap(one, wide) == 0
    wide[:, :, 7:] = 100  # three of ten columns; beside the edge, two have a gradient of 50
    assert domain_gap(one, wide) == pytest.approx(0.3)


def test_overlap_of_the_dark_parts():
    still = dark_iou(np.stack([disc(16)]), np.stack([255 - (255 - disc(16)) // 2]))
    assert still == pytest.approx([1.0], abs=0.05)  # paler, in the same place
    assert dark_iou(np.stack([disc(8)]), np.stack([disc(24)])) == pytest.approx([0.0])
    # Discs of radius 4 and 8 about one centre: 16 / 64.
    nested = dark_iou(np.stack([disc(16, 4)]), np.stack([disc(16, 8)]))
    assert nested == pytest.approx([0.25], abs=0.06)


def test_check_puts_them_together():
    source, target = noise(20, 100, 10, 1), noise(25, 180, 10, 2)
    found = check_domains(source, noise(20, 180, 10, 3), source + 2, target)
    assert found.auc_before == 1.0
    assert found.gap_before > 0.99
    # 25 and 20: the AUC's standard error without a difference is sqrt(46 / (12 * 500)) = 0.09.
    assert found.auc_after == pytest.approx(0.5, abs=0.27)
    assert found.gap_after < 0.1
    assert found.cycle_error == pytest.approx(2.0)
    assert found.as_dict()["n"] == [20, 25]


def test_grey_is_luma():
    red = np.zeros((1, 2, 2, 3), np.uint8)
    red[..., 0] = 255
    assert (grey(red) == 76).all()  # 0.299 * 255, ITU-R BT.601


def test_sheet_shows_every_image():
    rows = {"one": noise(3, 100, 5, 1), "other": noise(2, 200, 5, 2)}
    sheet = sample_sheet(rows, scale=2)
    assert sheet.shape == (4 + 2 * 52, 100 + 3 * 52, 3)
    assert (sheet[4:52:2, 100:148:2] == rows["one"][0]).all()
    assert (sheet[56:104:2, 152:200:2] == rows["other"][1]).all()
    assert (sheet[56:104, 204:252] == 255).all()
    assert (sheet[4:52, :96] < 255).any()  # the name
