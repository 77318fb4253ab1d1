"""Smear scenes: the styles of patients and slides, whole fields of heads, and single crops.

Every patient has a stain lot, a microscope and a camera of their own (:func:`patient_style`), every
slide small deviations from it (:func:`slide_style`), so that neither colour nor brightness tells
bound from unbound. :func:`render_field` places whole heads clear of one another, some of them just
touching, and adds what is not counted: heads cut by the border, crossed pairs, loose tails, debris.
:func:`render_crop` draws one head in the head's own frame, as a segmenter would cut it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from fertiray.data.alignment import WINDOW_HEADS
from fertiray.data.looks import MEDIAN_LENGTH, Array, Sperm, sample_sperm
from fertiray.data.render import (
    PALE,
    Image,
    Style,
    blank,
    draw_head,
    draw_rod,
    draw_smudge,
    draw_tail,
    expose,
    film,
    head_outline,
    jpeg_texture,
    smooth_noise,
)

STAINS = ("blue", "pink", "mixed")
FIELD_SCALE = 19.2  # pixels per micrometre: a head of 4.7 um is 90 px long, as in real fields

# Two ends of the Diff-Quik range: (background, azure, purple, pale), RGB. Blue as on fields of
# fresh stain under white light, pink as on slides with much eosin under a warm lamp.
_BLUE = np.array(
    [[229, 232, 235], [1.05, 1.20, 0.19], [0.34, 1.15, 0.035], [0.62, 0.47, 0.02]], np.float32
)
_PINK = np.array(
    [[246, 160, 190], [1.00, 0.25, 0.40], [0.25, 0.60, 0.24], [0.35, 0.45, 0.30]], np.float32
)
_TOUCHING = 0.04  # share of the heads placed so that they just touch the one before
_CROSSED = 0.015  # crossed pairs and
_CUT = 0.06  # heads cut by the border, per counted head: drawn, never counted


@dataclass(frozen=True)
class Placed:
    """A head and its place in an image.

    Attributes:
        sperm: the sperm drawn.
        x: column of the middle of the head, pixels.
        y: row of the middle of the head, pixels.
        angle: direction from tail to acrosome, degrees in [0, 360), ``atan2(dy, dx)``, y down.
        length: head length in pixels.
        width: head width in pixels.
    """

    sperm: Sperm
    x: float
    y: float
    angle: float
    length: float
    width: float


def patient_style(stain: str, rng: np.random.Generator) -> Style:
    """The stain, light, lens, camera and dirt of one patient's slides.

    Args:
        stain: "blue", "pink" or "mixed" (anything between, one mixture per patient).
        rng: the patient's generator.
    """
    share = {"blue": rng.uniform(0, 0.07), "pink": rng.uniform(0.8, 1), "mixed": rng.beta(0.6, 0.6)}
    palette = _BLUE + np.float32(share[stain]) * (_PINK - _BLUE)
    lamp = rng.normal(0.99, 0.02) * rng.normal(1, 0.008, 3)
    dirty = rng.lognormal(0, 0.6)
    rods = rng.uniform(10, 60) if rng.random() < 0.15 else 0.0
    return Style(
        background=np.clip(palette[0] * lamp, 120, 242).astype(np.float32),
        dyes=(palette[1:] * rng.lognormal(0, 0.05, (3, 3)) * rng.lognormal(0, 0.06)).astype(
            np.float32
        ),
        film=float(rng.uniform(0.012, 0.045)),
        mottle=float(rng.uniform(0.25, 0.7)),
        grit=float(rng.uniform(0.01, 0.08)),
        psf=float(rng.uniform(0.08, 0.12)),
        sharpen=float(rng.uniform(0.9, 1.6)),
        fringe=rng.normal(0, 0.05, 2).astype(np.float32),
        light=np.array([rng.uniform(0, 0.06), *rng.normal(0, 0.015, 2)], np.float32),
        noise=float(rng.uniform(0.6, 1.3)),
        quality=int(rng.integers(88, 97)),
        debris=np.array([110 * dirty, 60 * dirty, 1.5 * dirty, rods, 0.25, 3.0], np.float32),
        size=float(rng.lognormal(0, 0.03)),
    )


def slide_style(patient: Style, rng: np.random.Generator) -> Style:
    """One slide of a patient: small changes of stain, film, light and dirt."""
    return replace(
        patient,
        background=patient.background * rng.normal(1, 0.008, 3).astype(np.float32),
        dyes=patient.dyes * rng.lognormal(0, 0.04, (3, 1)).astype(np.float32),
        film=patient.film * float(rng.lognormal(0, 0.2)),
        psf=patient.psf * float(rng.lognormal(0, 0.06)),
        light=patient.light + rng.normal(0, 0.005, 3).astype(np.float32),
        debris=patient.debris * rng.lognormal(0, 0.25, 6).astype(np.float32),
    )


def render_field(
    labels: Sequence[str],
    fraction: float,
    style: Style,
    rng: np.random.Generator,
    *,
    size: tuple[int, int],
    scale: float,
) -> tuple[Image, list[Placed]]:
    """One field that holds exactly the heads asked for, whole and in sight.

    Args:
        labels: class of every counted head.
        fraction: share of "bound" among the heads that are drawn but not counted.
        style: the slide's style.
        rng: the field's generator.
        size: (width, height) in pixels.
        scale: pixels per micrometre.

    Returns:
        The field before compression, (height, width, 3) uint8 RGB, and its counted heads in the
        order of the labels.
    """
    width, height = size
    dyes, tails = blank(height, width), np.zeros((height, width), np.uint8)
    zoom = scale * style.size
    heads = _arrange([sample_sperm(label, rng) for label in labels], size, zoom, rng)
    others = _uncounted(heads, fraction, size, zoom, rng)
    for head in [*heads, *others]:
        draw_tail(tails, head.sperm, head.x, head.y, head.angle, zoom)
    for head in [*heads, *others]:
        draw_head(dyes, head.sperm, head.x, head.y, head.angle, zoom)
    taken = np.array([[head.x, head.y] for head in heads], np.float32).reshape(-1, 2)
    _litter(dyes, tails, style, scale, taken, rng)
    return _finish(dyes, tails, style, scale, rng), heads


def render_crop(
    label: str,
    style: Style,
    rng: np.random.Generator,
    *,
    size: int,
    window: float = WINDOW_HEADS,
    crowd: float = 0.3,
) -> tuple[Image, Placed]:
    """One head in its own frame: axis vertical, acrosome up, a segmenter's small errors added.

    Args:
        label: class of the head.
        style: the slide's style.
        rng: the crop's generator.
        size: pixels of a side.
        window: side of the crop in median head lengths.
        crowd: probability that a neighbouring head reaches into the crop.

    Returns:
        The crop, (size, size, 3) uint8 RGB, and the head in its middle (pixels of the crop).
    """
    zoom = size / (window * MEDIAN_LENGTH)  # the window follows the patient's own head length
    scale = zoom / style.size
    sperm = sample_sperm(label, rng)
    x, y = size / 2 - 0.5 + rng.normal(0, 0.012 * size, 2)
    angle = -90 + rng.normal(0, 3) + (180 if rng.random() < 0.01 else 0)
    dyes, tails = blank(size, size), np.zeros((size, size), np.uint8)
    draw_tail(tails, sperm, x, y, angle, zoom)
    draw_head(dyes, sperm, x, y, angle, zoom)
    if rng.random() < crowd:
        other = sample_sperm("unbound", rng)
        towards, turn = rng.uniform(0, 2 * np.pi), rng.uniform(0, 360)
        away = rng.uniform(1.1, 1.5) * MEDIAN_LENGTH * zoom
        place_at = (x + away * np.cos(towards), y + away * np.sin(towards), turn)
        draw_tail(tails, other, *place_at, zoom)
        draw_head(dyes, other, *place_at, zoom)
    _litter(dyes, tails, style, scale, np.array([[x, y]], np.float32), rng)
    evened = replace(style, noise=style.noise * 0.75, light=style.light * np.float32(0.15))
    image = jpeg_texture(_finish(dyes, tails, evened, scale, rng), style.quality)
    return image, _placed(sperm, float(x), float(y), float(angle), zoom)


def _finish(
    dyes: Array, tails: Image, style: Style, scale: float, rng: np.random.Generator
) -> Image:
    """Adds tails and film to a scene and takes its picture."""
    height, width = tails.shape
    dyes[PALE] += tails.astype(np.float32) / 255
    dyes[PALE] += style.film * np.exp(style.mottle * film(height, width, scale, rng))
    specks = smooth_noise(height, width, 0.75 * scale, rng)
    dyes[PALE] += np.float32(style.grit) * np.maximum(specks - np.float32(1.3), 0)
    return expose(dyes, style, scale, rng)


def _arrange(
    sperm: list[Sperm], size: tuple[int, int], zoom: float, rng: np.random.Generator
) -> list[Placed]:
    """Places for all heads: whole inside the field, clear of one another or just touching."""
    placed: list[Placed] = []
    for one in sperm:
        found = None
        if placed and rng.random() < _TOUCHING:
            found = _beside(placed[-1], one, placed[:-1], size, zoom, rng)
        while found is None:
            found = _dart(one, placed, size, zoom, rng)
        placed.append(found)
    return placed


def _placed(sperm: Sperm, x: float, y: float, angle: float, zoom: float) -> Placed:
    return Placed(sperm, x, y, angle % 360, sperm.length * zoom, sperm.width * zoom)


def _dart(
    sperm: Sperm,
    placed: Sequence[Placed],
    size: tuple[int, int],
    zoom: float,
    rng: np.random.Generator,
) -> Placed | None:
    """A random pose inside the field, or None where it lies too close to another head."""
    margin = 0.52 * sperm.length * zoom + 3
    x, y = rng.uniform(margin, size[0] - margin), rng.uniform(margin, size[1] - margin)
    pose = _placed(sperm, x, y, rng.uniform(0, 360), zoom)
    return pose if _clear(pose, placed) else None


def _clear(pose: Placed, placed: Sequence[Placed]) -> bool:
    return all(
        np.hypot(pose.x - other.x, pose.y - other.y) > 0.53 * (pose.length + other.length)
        for other in placed
    )


def _beside(
    first: Placed,
    sperm: Sperm,
    others: Sequence[Placed],
    size: tuple[int, int],
    zoom: float,
    rng: np.random.Generator,
) -> Placed | None:
    """A pose whose outline just touches the first head's; None where there is no room for it."""
    towards, angle = rng.uniform(0, 2 * np.pi), rng.uniform(0, 360)
    fixed = head_outline(first.sperm, first.x, first.y, first.angle, zoom)
    near, far = 0.0, 0.5 * (first.length + sperm.length * zoom) * 1.1
    step = np.array([np.cos(towards), np.sin(towards)], np.float32)
    moving = head_outline(sperm, first.x, first.y, angle, zoom)
    for _ in range(10):
        middle = (near + far) / 2
        inside = any(
            cv2.pointPolygonTest(fixed, (float(px), float(py)), False) > 0
            for px, py in moving + middle * step
        )
        near, far = (middle, far) if inside else (near, middle)
    x, y = (np.array([first.x, first.y]) + (far + 0.5) * step).tolist()
    pose = _placed(sperm, x, y, angle, zoom)
    margin = 0.52 * pose.length + 3
    whole = margin < x < size[0] - margin and margin < y < size[1] - margin
    return pose if whole and _clear(pose, others) else None


def _uncounted(
    heads: Sequence[Placed],
    fraction: float,
    size: tuple[int, int],
    zoom: float,
    rng: np.random.Generator,
) -> list[Placed]:
    """Heads that no one can judge: cut by the border, or crossed by another head."""
    extra: list[Placed] = []

    def one() -> Sperm:
        return sample_sperm("bound" if rng.random() < fraction else "unbound", rng)

    for _ in range(int(rng.poisson(_CROSSED * len(heads)))):
        first, second = one(), one()
        pose = _dart(first, [*heads, *extra], size, zoom, rng)
        if pose is not None:
            away = 0.45 * second.width * zoom
            turn = pose.angle + rng.choice([-1, 1]) * rng.uniform(50, 130)
            crossed = _placed(second, pose.x + away, pose.y + rng.normal(0, away), turn, zoom)
            if _clear(crossed, heads):
                extra += [pose, crossed]
    for _ in range(int(rng.poisson(_CUT * len(heads)))):
        along, over = rng.uniform(0, 1), rng.normal(0, 0.12) * MEDIAN_LENGTH * zoom
        x, y = along * size[0], along * size[1]
        side = int(rng.integers(4))
        x = (over, size[0] - 1 - over, x, x)[side]
        y = (y, y, over, size[1] - 1 - over)[side]
        pose = _placed(one(), x, y, rng.uniform(0, 360), zoom)
        if _clear(pose, [*heads, *extra]):
            extra.append(pose)
    return extra


def _litter(
    dyes: Array, tails: Image, style: Style, scale: float, heads: Array, rng: np.random.Generator
) -> None:
    """Debris and loose tails; what could hide a head keeps away from the heads (n, 2) given."""
    height, width = tails.shape
    area = height * width / scale**2 / 1e4
    flecks, blobs, clouds, rods, cells, loose = rng.poisson(style.debris * area)

    def anywhere(clear: float) -> tuple[float, float] | None:
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        near = np.hypot(*(heads - (x, y)).T).min(initial=np.inf)
        return (x, y) if near > clear * scale else None

    for kind, count in (("fleck", flecks), ("blob", blobs), ("cloud", clouds), ("cell", cells)):
        for _ in range(int(count)):
            clear = {"fleck": 1.5, "blob": 1.5, "cloud": 0.0, "cell": 10.0}[kind]
            spot = anywhere(clear)
            if spot is not None:
                _dirt(dyes, kind, *spot, scale, rng)
    for _ in range(int(rods)):
        spot = anywhere(3.0)
        if spot is not None:
            _rods(dyes, *spot, scale, rng)
    for _ in range(int(loose)):
        x, y, turn = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0, 360)
        draw_tail(tails, sample_sperm("unbound", rng), x, y, turn, scale)


def _dirt(
    dyes: Array, kind: str, x: float, y: float, scale: float, rng: np.random.Generator
) -> None:
    """One fleck of stain, pale blob, granular cloud or round cell."""
    strength = float(rng.lognormal(-0.4, 0.7))
    if kind == "fleck":
        radius = float(rng.lognormal(-0.75, 0.45))
        draw_smudge(
            dyes, (0.0, 0.26 * strength, 0.15 * strength), x, y, radius, 0.3, 0.3, scale, rng
        )
    elif kind == "blob":
        radius = float(rng.lognormal(-0.4, 0.45))
        amounts = (0.10 * strength, 0.0, 0.12 * strength)
        draw_smudge(dyes, amounts, x, y, radius, 0.7, 0.0, scale, rng)
    elif kind == "cloud":
        radius = float(rng.uniform(2.5, 6))
        draw_smudge(dyes, (0.0, 0.35 * strength, 0.05), x, y, radius, 0.4, 0.7, scale, rng)
    else:
        radius = float(rng.uniform(3.5, 5.5))
        draw_rod(dyes, (0.05, 0.15, 0.3), x, y, 0.0, 0.0, 2 * radius, scale)
        dx, dy = rng.normal(0, 0.15 * radius * scale, 2)
        draw_smudge(dyes, (0.5, 1.2, 0.0), x + dx, y + dy, 0.75 * radius, 1.2, 0.0, scale, rng)


def _rods(dyes: Array, x: float, y: float, scale: float, rng: np.random.Generator) -> None:
    """A bacterium, a pair or a short chain of them."""
    angle = float(rng.uniform(0, 360))
    for _ in range(int(rng.choice([1, 2, 2, 2, 6]))):
        draw_rod(dyes, (1.1, 0.6, 0.0), x, y, angle, 0.55, 0.4, scale)
        x += 1.05 * scale * np.cos(np.radians(angle))
        y += 1.05 * scale * np.sin(np.radians(angle))
        angle += float(rng.normal(0, 12))
