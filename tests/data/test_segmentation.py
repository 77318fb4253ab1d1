"""Heads drawn with a known pose are found with that pose; what is no head is rejected by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from fertiray.data.images import decode
from fertiray.data.segmentation import (
    REJECT_REASONS,
    Head,
    estimate_head_length,
    head_mask,
    segment_field,
)

Image = npt.NDArray[np.uint8]
FINE = 4  # drawn this much larger, then averaged down: edges as a camera sees them


@dataclass(frozen=True)
class Dye:
    """Colours (RGB) of one stain."""

    clear: tuple[int, int, int]
    nucleus: tuple[int, int, int]
    acrosome: tuple[int, int, int]
    tail: tuple[int, int, int]


# Medians of the annotated smear fields and of HuSHeM, rounded.
BLUE = Dye((221, 225, 229), (50, 5, 190), (150, 108, 220), (172, 182, 226))
PINK = Dye((238, 165, 195), (75, 30, 75), (165, 85, 145), (195, 130, 170))


@dataclass(frozen=True)
class Drawn:
    """A head as drawn: centre, long and short axis in px, direction to the acrosome in degrees."""

    x: float
    y: float
    length: float = 90
    width: float = 56
    angle: float = 0.0
    tail: bool = True


def draw(heads: list[Drawn], dye: Dye = BLUE, size: tuple[int, int] = (1280, 1024)) -> Image:
    """A field of ellipses, the front 40% of each acrosome, a tail behind, slightly blurred."""
    field = np.full((size[1] * FINE, size[0] * FINE, 3), dye.clear, np.uint8)
    for head in heads:
        ahead = np.array([np.cos(np.radians(head.angle)), np.sin(np.radians(head.angle))])
        centre = np.array([head.x, head.y])
        if head.tail:
            start, end = centre - 0.4 * head.length * ahead, centre - 2 * head.length * ahead
            ends = [tuple((p * FINE).astype(int).tolist()) for p in (start, end)]
            cv2.line(field, ends[0], ends[1], dye.tail, round(0.09 * head.length * FINE))
        t = np.radians(np.arange(0, 360, 2))
        along, across = 0.5 * head.length * np.cos(t), 0.5 * head.width * np.sin(t)
        side = np.array([-ahead[1], ahead[0]])
        outline = centre + along[:, None] * ahead + across[:, None] * side
        front = outline[along >= 0.1 * head.length]
        for points, colour in ((outline, dye.nucleus), (front, dye.acrosome)):
            cv2.fillPoly(field, [np.round(points * FINE).astype(np.int32)], colour)
    small = cv2.resize(field, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.GaussianBlur(small, (0, 0), 1.2), np.uint8)


SCENE = [
    Drawn(200, 200, angle=30),
    Drawn(560, 180, length=100, width=50, angle=200),
    Drawn(980, 220, length=80, width=60, angle=275),
    Drawn(260, 620, length=90, width=45, angle=120),
    Drawn(640, 560, length=96, width=58, angle=350),
    Drawn(1000, 640, length=84, width=52, angle=80),
    Drawn(700, 860, length=88, width=54, angle=160),
]


def nearest(heads: list[Head], drawn: Drawn) -> Head:
    return min(heads, key=lambda head: np.hypot(head.cx - drawn.x, head.cy - drawn.y))


def turn(a: float, b: float) -> float:
    """Angle between two directions, in [0, 180] degrees."""
    return abs((a - b + 180) % 360 - 180)


def check(heads: list[Head], scene: list[Drawn], zoom: float = 1.0) -> None:
    assert len(heads) == len(scene)
    for drawn in scene:
        head = nearest(heads, Drawn(drawn.x * zoom, drawn.y * zoom))
        assert np.hypot(head.cx - drawn.x * zoom, head.cy - drawn.y * zoom) < 0.04 * 90 * zoom
        assert head.major == pytest.approx(drawn.length * zoom, rel=0.06)
        assert head.minor == pytest.approx(drawn.width * zoom, rel=0.08)
        assert head.aspect == pytest.approx(drawn.length / drawn.width, rel=0.08)
        assert turn(head.angle, drawn.angle) < 5
        assert head.reason == ""


@pytest.mark.parametrize("dye", [BLUE, PINK], ids=["blue", "pink"])
def test_known_pose_is_measured(dye: Dye) -> None:
    found = segment_field(draw(SCENE, dye))
    check(found.heads, SCENE)
    assert found.head_length == pytest.approx(90, rel=0.1)
    assert found.background == pytest.approx(dye.clear, abs=2)


@pytest.mark.parametrize("zoom", [0.5, 2.0])
def test_scale_is_estimated_from_the_field(zoom: float) -> None:
    image = draw(SCENE)
    scaled = np.asarray(cv2.resize(image, None, fx=zoom, fy=zoom), np.uint8)
    check(segment_field(scaled).heads, SCENE, zoom)
    assert estimate_head_length([scaled]) == pytest.approx(90 * zoom, rel=0.05)


def test_uneven_illumination_changes_nothing() -> None:
    image = draw(SCENE)
    y, x = np.mgrid[-1:1:1024j, -1:1:1280j]
    lamp = 1 - 0.2 * (x**2 + y**2) + 0.1 * x  # 50% between the brightest and the darkest corner
    uneven = (image * np.clip(lamp, 0, 1)[..., None]).astype(np.uint8)
    check(segment_field(uneven, 90.0).heads, SCENE)


def test_negative_and_grey_images_are_read_as_the_field_they_show() -> None:
    image = draw(SCENE)
    grey = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    check(segment_field(np.asarray(grey, np.uint8), 90.0).heads, SCENE)
    check(segment_field(255 - image, 90.0).heads, SCENE)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_field_gives_turned_heads(quarters: int) -> None:
    image = draw(SCENE)
    upright = segment_field(image, 90.0).heads
    turned = segment_field(np.ascontiguousarray(np.rot90(image, quarters)), 90.0).heads
    assert len(turned) == len(upright)
    height, width = image.shape[:2]
    for head in upright:
        x, y, angle = head.cx, head.cy, head.angle
        across, down = width, height
        for _ in range(quarters):  # np.rot90 turns by 90 degrees against the clock
            x, y, angle, across, down = y, across - 1 - x, angle - 90, down, across
        other = nearest(turned, Drawn(x, y))
        assert np.hypot(other.cx - x, other.cy - y) < 1.5
        assert turn(other.angle, angle) < 2
        assert other.area == pytest.approx(head.area, rel=0.03)


def test_a_mirrored_field_gives_mirrored_heads() -> None:
    image = draw(SCENE)
    upright = segment_field(image, 90.0).heads
    mirrored = segment_field(np.ascontiguousarray(image[:, ::-1]), 90.0).heads
    assert len(mirrored) == len(upright)
    for head in upright:
        other = nearest(mirrored, Drawn(1279 - head.cx, head.cy))
        assert np.hypot(other.cx - 1279 + head.cx, other.cy - head.cy) < 1.5
        assert turn(other.angle, 180 - head.angle) < 2


@pytest.mark.parametrize(
    "pair",
    [
        [Drawn(600, 500, angle=90), Drawn(652, 505, angle=270)],  # side by side
        [Drawn(600, 500, angle=0), Drawn(686, 510, angle=180)],  # acrosome to acrosome
    ],
    ids=["side by side", "end to end"],
)
def test_touching_heads_are_separated(pair: list[Drawn]) -> None:
    apart = [Drawn(200, 200), Drawn(1000, 200), Drawn(200, 800), Drawn(1000, 800)]
    found = segment_field(draw(apart + pair), 90.0)
    assert len(found.heads) == 6
    for drawn in pair:
        head = nearest(found.heads, drawn)
        assert np.hypot(head.cx - drawn.x, head.cy - drawn.y) < 5
        assert head.area == pytest.approx(np.pi / 4 * 90 * 56, rel=0.15)
    one, two = (head_mask(nearest(found.heads, drawn), (1024, 1280)) for drawn in pair)
    assert not np.any(one & two)


def rejected(image: Image, drawn: Drawn) -> str:
    """The reason given to the candidate at a place where no head may be accepted."""
    found = segment_field(image, 90.0)
    assert all(np.hypot(head.cx - drawn.x, head.cy - drawn.y) > 60 for head in found.heads)
    return nearest(found.rejected, drawn).reason


def test_a_head_cut_in_half_is_rejected_as_border_and_a_nearly_whole_one_is_not() -> None:
    half = Drawn(2, 500, angle=90)
    assert rejected(draw([*SCENE, half]), half) == "border"
    nearly = Drawn(500, 1024 - 42, angle=270, tail=False)
    assert len(segment_field(draw([*SCENE, nearly]), 90.0).heads) == len(SCENE) + 1


def test_a_blurred_head_is_rejected_as_focus() -> None:
    image = draw([*SCENE, Drawn(1150, 880, angle=200)])
    image[780:1000, 1030:1270] = cv2.GaussianBlur(image[780:1000, 1030:1270], (0, 0), 10)
    assert rejected(image, Drawn(1150, 880)) == "focus"


def test_what_is_no_head_is_rejected_by_its_name() -> None:
    image = draw(SCENE)
    cv2.circle(image, (1150, 880), 80, BLUE.nucleus, cv2.FILLED, cv2.LINE_AA)
    assert rejected(image, Drawn(1150, 880)) == "size"
    image = draw(SCENE)
    cv2.circle(image, (1150, 880), 14, BLUE.nucleus, cv2.FILLED, cv2.LINE_AA)
    assert rejected(image, Drawn(1150, 880)) == "size"
    image = draw(SCENE)
    cv2.ellipse(image, (1150, 880), (40, 27), 0, 0, 360, BLUE.acrosome, cv2.FILLED, cv2.LINE_AA)
    assert rejected(image, Drawn(1150, 880)) == "debris"
    image = draw(SCENE)  # as dark as a nucleus, but neither a tail nor a paler end
    cv2.circle(image, (1150, 880), 32, BLUE.nucleus, cv2.FILLED, cv2.LINE_AA)
    assert rejected(image, Drawn(1150, 880)) == "debris"
    image = draw(SCENE)
    cv2.line(image, (1040, 960), (1240, 820), BLUE.nucleus, 30, cv2.LINE_AA)
    assert rejected(image, Drawn(1140, 890)) in {"size", "shape"}
    assert {"border", "size", "shape", "overlap", "focus", "debris"} <= set(REJECT_REASONS)


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("length", [None, 90.0])
@pytest.mark.parametrize("side", [(1, 1), (16, 16), (3, 200), (131, 131), (640, 512)])
def test_fields_without_heads_give_none(
    side: tuple[int, int], length: float | None, single: bool
) -> None:
    noise = np.random.default_rng(0).integers(-3, 4, (side[1], side[0], 3))
    for grey in (0, 128, 250, 255):
        image = np.clip(grey + noise, 0, 255).astype(np.uint8)
        assert segment_field(image, length, single=single).heads == []
        flat = np.full((side[1], side[0], 3), grey, np.uint8)
        assert segment_field(flat, length, single=single).heads == []


def test_pure_noise_and_stripes_never_raise() -> None:
    generator = np.random.default_rng(1)
    for shape in ((40, 40, 3), (300, 400, 3)):
        noise = generator.integers(0, 256, shape, dtype=np.uint8)
        stripes = np.ascontiguousarray(
            np.where(np.arange(shape[1])[None, :, None] % 8 < 4, noise, 230)
        )
        for image in (noise, np.ascontiguousarray(stripes, np.uint8)):
            for length in (None, 5.0, 90.0, 1000.0):
                segment_field(image, length)


def test_of_a_single_image_the_head_in_the_middle_is_taken() -> None:
    image = draw([Drawn(100, 100, angle=45), Drawn(185, 40, 80, 50, 100)], PINK, (220, 200))
    found = segment_field(image, 90.0, single=True)
    assert len(found.heads) == 1
    assert np.hypot(found.heads[0].cx - 100, found.heads[0].cy - 100) < 5
    assert "neighbour" in {head.reason for head in found.rejected}


def test_two_runs_agree_to_the_last_bit() -> None:
    image = draw(SCENE)
    one, two = segment_field(image), segment_field(image)
    for a, b in zip(one.heads, two.heads, strict=True):
        assert (a.cx, a.cy, a.angle, a.major) == (b.cx, b.cy, b.angle, b.major)
        assert np.array_equal(a.contour, b.contour)


@pytest.mark.realdata
def test_the_scale_of_real_fields_is_found_from_a_few_of_them(real_data: Path) -> None:
    files = sorted((real_data / "smear_fields" / "images").glob("*.jpg"))[::32]
    # 89.6 px is the median long side of the annotated heads' minimum-area rectangles.
    assert estimate_head_length(decode(file.read_bytes()) for file in files) == pytest.approx(
        89.6, rel=0.05
    )
