"""Aligned crops: the head centred, its axis vertical, its acrosome up, at a common scale."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fertiray.data.alignment import CROP_SIZE, WINDOW_HEADS, align_crop
from fertiray.data.segmentation import Head, segment_field

CLEAR, NUCLEUS, ACROSOME = (221, 225, 229), (50, 5, 190), (150, 108, 220)


def a_head(cx: float, cy: float, angle: float, major: float = 90.0) -> Head:
    contour = cv2.ellipse2Poly((round(cx), round(cy)), (45, 28), round(angle), 0, 360, 5)
    return Head(
        cx=cx,
        cy=cy,
        major=major,
        minor=56.0,
        angle=angle,
        aspect=major / 56,
        contour=np.asarray(contour, np.float32),
        area=3958.0,
        solidity=1.0,
        nucleus=0.6,
        sharpness=10.0,
        visible=1.0,
        texture=1.0,
        gradient=1.0,
        tail=0.2,
    )


def field_with(cx: int, cy: int, angle: float) -> np.ndarray:
    """A dark ellipse with a paler half in the direction of the angle (degrees, y down)."""
    field = np.full((400, 500, 3), CLEAR, np.uint8)
    cv2.ellipse(field, (cx, cy), (45, 28), angle, 0, 360, NUCLEUS, cv2.FILLED)
    cv2.ellipse(field, (cx, cy), (45, 28), angle, -60, 60, ACROSOME, cv2.FILLED)
    return field


@pytest.mark.parametrize("angle", [0, 37, 90, 143, 180, 225, 270, 311])
def test_acrosome_is_up_and_the_head_upright_and_centred(angle: int) -> None:
    crop = align_crop(field_with(250, 200, angle), a_head(250, 200, angle), 90.0)
    assert crop.shape == (CROP_SIZE, CROP_SIZE, 3)
    assert crop.dtype == np.uint8
    assert crop.flags.c_contiguous
    y, x = np.nonzero(crop[..., 1] < 170)  # the head: green below the middle of clear and acrosome
    zoom = CROP_SIZE / (WINDOW_HEADS * 90)
    assert (x.min() + x.max()) / 2 == pytest.approx(63.5, abs=1.5)
    assert (y.min() + y.max()) / 2 == pytest.approx(63.5, abs=1.5)
    assert np.ptp(y) + 1 == pytest.approx(91 * zoom, abs=2)
    assert np.ptp(x) + 1 == pytest.approx(57 * zoom, abs=2)
    upper, lower = crop[40:55, 58:70, 1].mean(), crop[73:88, 58:70, 1].mean()
    assert upper > lower + 40


def test_the_window_follows_the_cohort_not_the_head() -> None:
    field = field_with(250, 200, 270)
    same = align_crop(field, a_head(250, 200, 270, major=60.0), 90.0)
    assert np.array_equal(same, align_crop(field, a_head(250, 200, 270), 90.0))
    half = align_crop(field, a_head(250, 200, 270), 180.0)
    dark = [np.count_nonzero(crop[..., 1] < 170) for crop in (same, half)]
    assert dark[0] / dark[1] == pytest.approx(4, rel=0.05)


def test_an_upright_head_at_scale_one_is_the_field_itself() -> None:
    field = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    # 128 px across 128 px of field, centre between pixels: row 36 of the field is row 0.
    crop = align_crop(field, a_head(99.5, 99.5, 270), CROP_SIZE / WINDOW_HEADS)
    assert np.abs(crop.astype(int) - field[36:164, 36:164]).max() <= 1


@pytest.mark.parametrize("centre", [(3, 3), (496, 396), (3, 396)])
def test_beyond_the_field_its_border_is_repeated(centre: tuple[int, int]) -> None:
    field = np.full((400, 500, 3), CLEAR, np.uint8)
    for length in (30.0, 90.0, 400.0):
        crop = align_crop(field, a_head(*centre, 270), length)
        assert np.array_equal(crop, np.full_like(crop, CLEAR))


def test_sizes_other_than_the_usual_are_made() -> None:
    assert align_crop(field_with(250, 200, 0), a_head(250, 200, 0), 90.0, size=64).shape == (
        64,
        64,
        3,
    )


def test_crops_of_a_turned_field_are_the_same() -> None:
    field = field_with(250, 200, 37)
    cv2.line(field, (214, 173), (120, 102), (172, 182, 226), 8)
    field = np.asarray(cv2.GaussianBlur(field, (0, 0), 1.2), np.uint8)
    crops = []
    for quarters in range(4):
        turned = np.ascontiguousarray(np.rot90(field, quarters))
        heads = segment_field(turned, 90.0).heads
        assert len(heads) == 1
        crops.append(align_crop(turned, heads[0], 90.0).astype(float))
    for crop in crops[1:]:
        assert np.abs(crop - crops[0]).mean() < 3  # of 255; the resampling differs
