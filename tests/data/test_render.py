"""Tests of drawing heads, fields and crops, and of the picture a camera takes of them."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from fertiray.data.alignment import WINDOW_HEADS, align_crop
from fertiray.data.looks import MEDIAN_LENGTH, sample_sperm
from fertiray.data.render import (
    AZURE,
    PURPLE,
    blank,
    draw_head,
    draw_tail,
    expose,
    head_outline,
    place,
    smooth_noise,
)
from fertiray.data.smear import patient_style, render_crop, render_field, slide_style

SCALE = 19.2


def clean_style(seed: int = 0):
    style = patient_style("blue", np.random.default_rng(seed))
    return replace(style, film=0.0, grit=0.0, debris=np.zeros(6, np.float32))


def otsu(image: np.ndarray) -> np.ndarray:
    return cv2.threshold(image[..., 1], 0, 1, cv2.THRESH_BINARY_INV | cv2.THRESH_OTSU)[1] > 0


def mask_of(outlines, shape) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [np.round(points).astype(np.int32) for points in outlines], 1)
    return mask > 0


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


def test_place_follows_the_angle_convention() -> None:
    """90 degrees: the acrosome (+v) points down the image, +u to the left (hand computation)."""
    points = np.array([[0.0, 1.0], [1.0, 0.0]], np.float32)
    np.testing.assert_allclose(place(points, 50, 60, 90, 10), [[50, 70], [40, 60]], atol=1e-4)


def test_empty_scene_shows_the_glass() -> None:
    style = replace(clean_style(), noise=0.0, light=np.zeros(3, np.float32))
    image = expose(blank(40, 50), style, SCALE, np.random.default_rng(0))
    assert image.shape == (40, 50, 3)
    assert image.dtype == np.uint8
    np.testing.assert_allclose(image.reshape(-1, 3).mean(axis=0), style.background, atol=1.0)


def test_beer_lambert_of_two_layers() -> None:
    """Twice the dye squares the transmitted share: I0 exp(-2d) = I0 (exp(-d))^2."""
    style = replace(clean_style(), noise=0.0, light=np.zeros(3, np.float32))
    rng = np.random.default_rng(0)
    once, twice = blank(40, 40), blank(40, 40)
    once[PURPLE] += 0.2
    twice[PURPLE] += 0.4
    black = 9.0
    glass = style.background + black
    first = (expose(once, style, SCALE, rng)[20, 20] + black) / glass
    second = (expose(twice, style, SCALE, rng)[20, 20] + black) / glass
    np.testing.assert_allclose(second, first**2, atol=0.015)


def test_camera_noise_has_the_stated_deviation() -> None:
    style = replace(clean_style(), noise=2.0, light=np.zeros(3, np.float32))
    image = expose(blank(200, 200), style, SCALE, np.random.default_rng(0))
    assert image[..., 1].std() == pytest.approx(2.0, rel=0.06)


def test_smooth_noise_is_standard_and_smooth() -> None:
    noise = smooth_noise(400, 400, 4.0, np.random.default_rng(0))
    assert noise.mean() == pytest.approx(0, abs=0.1)
    assert noise.std() == pytest.approx(1, abs=0.05)
    assert np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1] > 0.9


@pytest.mark.parametrize("label", ["bound", "unbound"])
def test_drawn_head_fills_its_outline(label: str) -> None:
    rng = np.random.default_rng(3)
    for angle in (0, 77, 200, 305):
        dyes, sperm = blank(160, 170), sample_sperm(label, rng)
        draw_head(dyes, sperm, 84.3, 79.6, angle, SCALE)
        drawn = dyes[AZURE] + dyes[PURPLE] > 0.12
        outline = head_outline(sperm, 84.3, 79.6, angle, SCALE)
        assert iou(drawn, mask_of([outline], drawn.shape)) > 0.95


def test_acrosome_is_paler_and_on_the_side_of_the_angle() -> None:
    rng = np.random.default_rng(4)
    for angle in range(0, 360, 45):
        dyes, sperm = blank(160, 160), sample_sperm("bound", rng)
        draw_head(dyes, sperm, 80, 80, angle, SCALE)
        along = np.array([[0, 0.35], [0, -0.35]], np.float32) * sperm.length
        (x1, y1), (x0, y0) = np.round(place(along, 80, 80, angle, SCALE)).astype(int)
        assert dyes[AZURE, y1, x1] < 0.5 * dyes[AZURE, y0, x0]


def test_vacuoles_take_stain_away_in_proportion() -> None:
    """Share of the nuclear dye lost = share of the area times the depth, within drawing limits."""
    rng = np.random.default_rng(5)
    sperm = replace(
        sample_sperm("bound", rng), vacuoles=np.array([[0, 0, np.sqrt(0.05), 1.0]], np.float32)
    )
    plain = replace(sperm, vacuoles=np.zeros((0, 4), np.float32))
    scenes = [blank(160, 160) for _ in range(2)]
    for scene, one in zip(scenes, (plain, sperm), strict=True):
        draw_head(scene, one, 80, 80, 270, SCALE)
    covered = (scenes[0][PURPLE] - scenes[1][PURPLE] > 0.5 * scenes[0][PURPLE]) & (
        scenes[0][PURPLE] > 0.1
    )
    area = mask_of([head_outline(sperm, 80, 80, 270, SCALE)], covered.shape).sum()
    assert covered.sum() / area == pytest.approx(0.05, abs=0.015)


def test_heads_outside_and_across_the_border_are_cut() -> None:
    sperm = replace(sample_sperm("bound", np.random.default_rng(6)), focus=0.0)
    outside, across, whole = blank(100, 100), blank(100, 100), blank(100, 300)
    draw_head(outside, sperm, -200, 50, 30, SCALE)
    draw_head(across, sperm, 0, 50, 30, SCALE)
    draw_head(whole, sperm, 100, 50, 30, SCALE)
    assert not outside.any()
    np.testing.assert_allclose(across[..., :100], whole[..., 100:200], atol=1e-5)


def test_tail_leaves_the_head_on_the_far_side_of_the_acrosome() -> None:
    mask = np.zeros((300, 300), np.uint8)
    draw_tail(mask, sample_sperm("bound", np.random.default_rng(7)), 150, 150, 270, SCALE)
    rows = np.nonzero(mask)[0]
    assert rows.size > 200
    assert rows.min() > 150


def test_field_pixels_agree_with_its_heads() -> None:
    """On a field without debris the dark regions (Otsu) are the heads that are listed."""
    style = clean_style(1)
    labels = ["bound", "unbound"] * 3
    rng = np.random.default_rng(8)
    image, heads = render_field(labels, 0.0, style, rng, size=(640, 512), scale=SCALE)
    assert [head.sperm.label for head in heads] == labels
    dark, zoom = otsu(image), SCALE * style.size
    for head in heads:
        outline = head_outline(head.sperm, head.x, head.y, head.angle, zoom)
        assert outline.min() > 0
        assert np.all(outline.max(axis=0) < (640, 512))
        drawn = mask_of([outline], dark.shape)
        around = cv2.dilate(drawn.astype(np.uint8), np.ones((9, 9))) > 0  # not its neighbours
        assert iou(drawn, dark & around) > 0.85
        (_, _), sides, _ = cv2.minAreaRect(outline)
        assert max(sides) == pytest.approx(head.length, rel=0.06)
        assert min(sides) == pytest.approx(head.width, rel=0.06)


def test_counted_heads_do_not_hide_one_another() -> None:
    rng = np.random.default_rng(9)
    style = clean_style(2)
    for _ in range(4):
        _, heads = render_field(["unbound"] * 20, 0.1, style, rng, size=(640, 512), scale=10.0)
        masks = [
            mask_of([head_outline(h.sperm, h.x, h.y, h.angle, 10.0 * style.size)], (512, 640))
            for h in heads
        ]
        shared = np.sum(masks, axis=0)
        assert (shared > 1).sum() < 0.01 * (shared > 0).sum()


def test_crop_cut_from_a_field_looks_like_a_crop_drawn_directly() -> None:
    """The same sperm by both ways: within a few grey levels, under another noise and film."""
    style = clean_style(3)
    rng = np.random.default_rng(10)
    sides = []
    for seed in range(6):
        crop, placed = render_crop("bound", style, np.random.default_rng(seed), size=128, crowd=0.0)
        sperm, zoom = placed.sperm, SCALE * style.size
        dyes, tails = blank(400, 400), np.zeros((400, 400), np.uint8)
        draw_tail(tails, sperm, 200, 200, 40, zoom)
        draw_head(dyes, sperm, 200, 200, 40, zoom)
        dyes[2] += tails.astype(np.float32) / 255
        field = expose(dyes, style, SCALE, rng)
        # the pose error that the direct crop was drawn with, in pixels of the field
        step = WINDOW_HEADS * MEDIAN_LENGTH * zoom / 128
        turn = placed.angle - 270
        up = np.radians(40 - turn)
        dx, dy = (placed.x - 63.5) * step, (placed.y - 63.5) * step
        head = SimpleNamespace(
            cx=200 + dx * np.sin(up) + dy * np.cos(up),
            cy=200 - dx * np.cos(up) + dy * np.sin(up),
            angle=40 - turn,
        )
        cut = align_crop(field, head, MEDIAN_LENGTH * zoom)
        sides.append((cut, crop))
        assert iou(otsu(cut), otsu(crop)) > 0.93
        assert np.abs(cut.astype(float) - crop).mean() < 5
    cut, crop = (np.array(images).astype(float) for images in zip(*sides, strict=True))
    np.testing.assert_allclose(cut.mean(axis=(0, 1, 2)), crop.mean(axis=(0, 1, 2)), atol=3)


def test_crop_frame() -> None:
    """Axis vertical, acrosome up, head centred, but for a segmenter's errors."""
    style = clean_style(4)
    heads = [
        render_crop("bound", style, np.random.default_rng(seed), size=64)[1] for seed in range(300)
    ]
    angles = np.array([head.angle for head in heads])
    upright = np.abs(angles - 270) < 15
    assert 0.95 < upright.mean() < 1.0
    assert np.abs(angles[~upright] - 90).max() < 15
    assert np.median([head.length for head in heads]) == pytest.approx(64 / WINDOW_HEADS, rel=0.03)
    assert np.hypot(*np.mean([(h.x - 31.5, h.y - 31.5) for h in heads], axis=0)) < 0.3


@pytest.mark.parametrize("stain", ["blue", "pink", "mixed"])
def test_stains_vary_between_patients_and_less_between_slides(stain: str) -> None:
    patients = [patient_style(stain, np.random.default_rng(seed)) for seed in range(30)]
    slides = [slide_style(patients[0], np.random.default_rng(seed)) for seed in range(30)]
    between = np.std([style.dyes for style in patients], axis=0)
    within = np.std([style.dyes for style in slides], axis=0)
    assert np.all(between > within)
    reds = np.array([style.background[0] - style.background[1] for style in patients])
    assert {"blue": np.abs(reds).max() < 30, "pink": reds.min() > 30, "mixed": np.ptp(reds) > 50}[
        stain
    ]


@pytest.mark.slow
def test_speed_on_one_core() -> None:
    """At most 0.4 s for a field of 28 heads at 1280x1024, and 400 crops a second when idle."""
    style = patient_style("blue", np.random.default_rng(0))
    rng = np.random.default_rng(1)
    start = time.process_time()
    for _ in range(5):
        render_field(["unbound"] * 28, 0.1, style, rng, size=(1280, 1024), scale=SCALE)
    assert (time.process_time() - start) / 5 < 0.4
    start = time.process_time()
    for _ in range(500):
        render_crop("unbound", style, rng, size=128)
    assert 500 / (time.process_time() - start) > 150
