"""Drawing a stained smear as a microscope sees it: dye amounts, Beer-Lambert, lens, camera.

A scene is a map of dye amounts, (3, H, W) float32: an azure (thiazine) dye that nuclei take up, a
purple (eosin-azure) one of acrosomes and granules, and a pale one of tails, cytoplasm and the film
of dried plasma. Dyes that lie on top of each other add up. :func:`expose` turns the amounts into
optical densities (a 3x3 matrix, one row per dye), those into transmitted light (Beer-Lambert,
``I = I0 * exp(-density)``), blurs and shifts the colours as a lens does, and adds what a camera
adds: sharpening, noise, 8 bits. Lengths are micrometres, ``scale`` is pixels per micrometre, so one
function draws a head in a whole field and in a crop.

Poses are (x, y) in pixels and an angle in degrees: the direction from tail to acrosome,
``atan2(dy, dx)``, x to the right, y down.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from fertiray.data.looks import TAIL_STEP, Array, Sperm

Image = npt.NDArray[np.uint8]

AZURE, PURPLE, PALE = 0, 1, 2
_BLACK = 9.0  # grey levels the camera takes for black: dense nuclei clip, as in real fields
_TAIL_WIDTH = 0.30  # micrometres, before the lens


@dataclass(frozen=True)
class Style:
    """One slide under one microscope: stain, light, lens and camera.

    Attributes:
        background: (3,) RGB grey levels of clean glass, 0 to 255.
        dyes: (3, 3) optical density per unit of each dye (rows azure, purple, pale; columns RGB).
        film: amount of pale dye in the dried plasma film, mean over the field.
        mottle: relative unevenness of the film.
        grit: amount of pale dye in the film's fine specks.
        psf: lens blur (standard deviation, micrometres).
        sharpen: strength of the camera's sharpening, which makes the bright halo.
        fringe: (2,) shift of red against green and blue (micrometres).
        light: (3,) fall-off at the corners and slope along x and y, relative.
        noise: camera noise (standard deviation, grey levels).
        quality: JPEG quality, 1 to 100.
        debris: expected number per 10,000 square micrometres of purple flecks, pale blobs, granular
            clouds, bacteria, round cells, loose tails.
        size: factor on all lengths of this patient's sperm.
    """

    background: Array
    dyes: Array
    film: float
    mottle: float
    grit: float
    psf: float
    sharpen: float
    fringe: Array
    light: Array
    noise: float
    quality: int
    debris: Array
    size: float


def blank(height: int, width: int) -> Array:
    """An empty scene, (3, height, width) float32 dye amounts."""
    return np.zeros((3, height, width), np.float32)


def place(points: Array, x: float, y: float, angle: float, scale: float) -> Array:
    """Points (n, 2) of a sperm's frame (u, v in micrometres) in pixels of the image."""
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    axes = np.array([[-s, c], [c, s]], np.float32) * np.float32(scale)
    return np.asarray(points @ axes + np.array([x, y], np.float32), np.float32)


def head_outline(sperm: Sperm, x: float, y: float, angle: float, scale: float) -> Array:
    """The drawn head's outline, (72, 2) float32 pixels (x, y) of the image."""
    return place(sperm.outline, x, y, angle, scale)


def draw_head(dyes: Array, sperm: Sperm, x: float, y: float, angle: float, scale: float) -> None:
    """Adds one head (nucleus, acrosome, vacuoles) to a scene; parts outside it are cut off."""
    edge_points = head_outline(sperm, x, y, angle, scale)
    margin = 2 + 2 * sperm.focus * scale
    low, high = edge_points.min(axis=0) - margin, edge_points.max(axis=0) + margin
    window = _Window.of(dyes.shape[1:], x, y, angle, low, high)
    if window is None:
        return
    _, _, acrosome, _, density, taper, _ = sperm.features
    half_width, half_length = sperm.half_width * scale, sperm.half_length * scale
    t = window.v / half_length + sperm.middle[1]
    across = window.u / half_width + sperm.middle[0]
    x_unit = (across - sperm.bend * t * t) / (1 + taper * t)
    rho_squared = x_unit * x_unit + t * t
    rho = np.sqrt(rho_squared) + 1e-4
    edge = _edge(sperm, x_unit / rho, t / rho)
    from_middle = np.sqrt((across * half_width) ** 2 + (t * half_length) ** 2)
    cover = np.clip((edge / rho - 1) * from_middle + 0.5, 0, 1)  # 1 inside, one pixel of ramp
    thickness = 0.6 + 0.4 * np.sqrt(np.clip(1 - rho_squared / (edge * edge), 0, 1))

    dome, slant, soft = (float(value) for value in sperm.border)
    front, dark, rim, hue = (float(value) for value in sperm.tone)
    border = 1 - 2 * acrosome
    height = border + dome * (0.35 - x_unit * x_unit) + slant * x_unit - t
    nucleus = 1 / (1 + cv2.exp(np.clip(-height / soft, -30, 30)))
    basal = np.clip((border - t) / (border + 1), 0, 1)
    u_um, v_um = window.u / scale, window.v / scale
    grain = np.ones_like(t)
    for along, over, phase in sperm.texture:
        grain += 0.045 * np.cos(along * u_um + over * v_um + phase)
    body = cover * thickness * grain * _vacuole_light(sperm, x_unit, t)
    lit = nucleus * density
    apex = np.clip((t - border) / (1 - border), 0, 1)
    cap = (1 - nucleus) * front * (1 - 0.5 * apex)
    azure = body * (lit * ((0.22 + 1.5 * dark * basal * np.sqrt(basal)) * hue) + 0.1 * cap)
    purple = body * (lit * (1.9 + 0.5 * basal) + cap * (0.7 + rim * rho_squared))
    for dye, layer in ((AZURE, azure), (PURPLE, purple)):
        if sperm.focus * scale > 0.5:
            layer = cv2.GaussianBlur(layer, (0, 0), sperm.focus * scale)
        dyes[dye, window.rows, window.columns] += layer


def _edge(sperm: Sperm, sine: Array, cosine: Array) -> Array:
    """Radius of the wavy outline in units of the half axes, by the angle from the front."""
    radius = np.ones_like(sine)
    c, s = cosine, sine
    for cosine_part, sine_part in sperm.waves:
        c, s = c * cosine - s * sine, s * cosine + c * sine
        radius += cosine_part * c + sine_part * s
    return radius


def _vacuole_light(sperm: Sperm, x: Array, t: Array) -> Array:
    """What the vacuoles leave of the stain, 0 to 1 per pixel."""
    left = np.ones_like(x)
    stretch = sperm.half_length / sperm.half_width
    for x0, t0, radius, depth in sperm.vacuoles:
        if radius > 0.03:
            radius *= np.sqrt(stretch)  # round in space, with the stated share of the head's area
            distance = np.sqrt((x - x0) ** 2 + ((t - t0) * stretch) ** 2)
            left *= 1 - depth * np.clip((radius - distance) / 0.2 + 0.5, 0, 1)
    return left


def draw_tail(mask: Image, sperm: Sperm, x: float, y: float, angle: float, scale: float) -> None:
    """Draws midpiece, cytoplasmic droplet and tail on a mask of the pale dye (255 = one unit)."""
    points = place(sperm.tail, x, y, angle, scale)
    height, width = mask.shape
    reach = 5 * TAIL_STEP * scale
    near = np.all((points > -reach) & (points < np.array([width, height]) + reach), axis=1)
    if not near.any():
        return
    midpiece, length, stain, droplet, side = sperm.neck.tolist()
    path = np.arange(len(points)) * TAIL_STEP
    along = np.diff(points, axis=0, append=2 * points[-1:] - points[-2:-1])
    normal = along[:, ::-1] * np.array([-1, 1], np.float32)
    normal /= np.sqrt((normal * normal).sum(axis=1, keepdims=True))
    slim = np.clip(1 - path / length, 0, 1) ** 0.5 * (1 + 0.25 * np.sin(1.7 * path + 3 * side))
    half = scale * 0.5 * (_TAIL_WIDTH * (1 - 0.4 * path / path[-1]) + midpiece * slim)
    half[0] *= 0.4
    left, right = points + normal * half[:, None], points - normal * half[:, None]
    if droplet > 0:
        centre = points[1] + side * 0.6 * droplet * scale * normal[1]
        axes = (int(droplet * scale * 1.25 * 16), int(droplet * scale * 0.85 * 16))
        turn = float(np.degrees(np.arctan2(along[1, 1], along[1, 0])))
        place_at = tuple(int(value) for value in np.round(centre * 16))
        cv2.ellipse(mask, place_at, axes, turn, 0, 360, 50, -1, cv2.LINE_AA, 4)
    pale = np.minimum(34 * stain * slim + 48 - 24 * path / path[-1], 200)
    for start in range(0, len(points) - 1, 3):  # from the head outwards, ever paler
        if near[start : start + 4].any():
            part = slice(start, start + 4)
            ring = np.concatenate([left[part], right[part][::-1]])
            polygon = np.round(ring * 16).astype(np.int32)
            cv2.fillPoly(mask, [polygon], float(pale[start]), cv2.LINE_AA, 4)


def draw_rod(
    dyes: Array,
    amounts: tuple[float, float, float],
    x: float,
    y: float,
    angle: float,
    length: float,
    width: float,
    scale: float,
) -> None:
    """Adds a rod with round ends (a bacterium; a disc where the length is 0), in micrometres."""
    reach = scale * (length + width) / 2 + 2
    window = _Window.around(dyes.shape[1:], x, y, angle, reach)
    if window is None:
        return
    beyond = np.maximum(np.abs(window.v) - length * scale / 2, 0)
    cover = np.clip(width * scale / 2 - np.sqrt(window.u**2 + beyond**2) + 0.5, 0, 1)
    for dye, amount in enumerate(amounts):
        dyes[dye, window.rows, window.columns] += np.float32(amount) * cover


def draw_smudge(
    dyes: Array,
    amounts: tuple[float, float, float],
    x: float,
    y: float,
    radius: float,
    grain: float,
    sparse: float,
    scale: float,
    rng: np.random.Generator,
) -> None:
    """Adds a ragged stain: smooth noise of the given grain (micrometres) under a round hill.

    ``sparse`` raises the threshold above which there is stain: 0 gives a lumpy blob, 1 granules.
    """
    side = 8 * int(np.ceil((2 * radius * scale + 4) / 8))  # in steps: splines are kept
    fine = smooth_noise(side, side, grain * scale, rng)
    coarse = smooth_noise(side, side, 0.4 * side, rng)
    window = _Window.around(dyes.shape[1:], x, y, 0.0, radius * scale)
    if window is None:
        return
    top, left = (
        window.rows.start - int(y - radius * scale),
        window.columns.start - int(x - radius * scale),
    )
    part = np.s_[top : top + window.u.shape[0], left : left + window.u.shape[1]]
    hill = 1 - (window.u**2 + window.v**2) / (radius * scale) ** 2
    lumps = hill + 0.35 * coarse[part]
    stain = 0.8 * lumps + (0.35 + 0.35 * sparse) * fine[part] - 0.25 - 0.3 * sparse
    stain = np.clip(stain, 0, 1) * np.clip(3 * hill, 0, 1)
    for dye, amount in enumerate(amounts):
        if amount:
            dyes[dye, window.rows, window.columns] += np.float32(amount) * stain


def expose(dyes: Array, style: Style, scale: float, rng: np.random.Generator) -> Image:
    """What the camera records of a scene: (H, W, 3) uint8 RGB in [0, 255]."""
    _, height, width = dyes.shape
    density = style.dyes.T @ dyes.reshape(3, -1)
    light = np.asarray(cv2.exp(-density), np.float32).reshape(3, height, width)
    noise = _camera_noise(height, width, rng) * np.float32(style.noise) - np.float32(_BLACK)
    lamp = _illumination(height, width, style)
    box = (2 * int(0.3 * scale) + 1,) * 2  # as wide as a Gaussian of 0.17 micrometres
    channels = []
    for channel, blur in enumerate((1.5, 1.0, 1.15)):  # the lens is sharpest in green
        sigma, (dx, dy) = style.psf * scale * blur, style.fringe * scale * (channel == 0)
        kernels = _gaussian(sigma, float(dx)), _gaussian(sigma, float(dy))
        sharp = cv2.sepFilter2D(light[channel], -1, *kernels)
        soft = cv2.blur(sharp, box)
        glass = float(style.background[channel]) + _BLACK
        more, less = (1 + style.sharpen) * glass, -style.sharpen * glass
        seen = lamp * cv2.addWeighted(sharp, more, soft, less, 0)
        channels.append(cv2.add(seen, noise, dtype=cv2.CV_8U))  # rounded, clipped to 0...255
    return np.asarray(cv2.merge(channels), np.uint8)


def _camera_noise(height: int, width: int, rng: np.random.Generator) -> Array:
    """Nearly normal noise of unit variance, (height, width) float32, a little smooth.

    One plane for all colours: what a camera's colour interpolation and JPEG leave of its noise is
    mostly brightness.
    """
    drawn = np.frombuffer(rng.bytes(2 * height * width), np.uint8).reshape(2, height, width)
    total = drawn[0].astype(np.float32) + drawn[1] - 255  # triangular, variance (256^2 - 1) / 6
    smooth = cv2.sepFilter2D(total, -1, _NOISE_BLUR, _NOISE_BLUR)
    return np.asarray(smooth / np.float32(104.51 * (_NOISE_BLUR @ _NOISE_BLUR)), np.float32)


_NOISE_BLUR = np.array([0.17, 0.66, 0.17], np.float32)


@lru_cache(maxsize=64)
def _gaussian(sigma: float, shift: float) -> Array:
    """A normalised Gaussian kernel that also moves the image by a fraction of a pixel or more."""
    radius = int(np.ceil(3 * sigma + abs(shift)))
    at = np.arange(-radius, radius + 1) + shift
    kernel = np.exp(-0.5 * (at / sigma) ** 2)
    return np.asarray(kernel / kernel.sum(), np.float32)


def jpeg_texture(image: Image, quality: int) -> Image:
    """The image after one JPEG round trip, (H, W, 3) uint8 RGB."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    stored = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(stored, cv2.IMREAD_COLOR_RGB), np.uint8)


def film(height: int, width: int, scale: float, rng: np.random.Generator) -> Array:
    """Unevenness of the dried film, (height, width) float32 with mean 0 and deviation near 1.

    Three octaves of smooth noise, of 40, 9 and 2 micrometres.
    """
    octaves = ((40.0, 0.65), (9.0, 0.5), (2.0, 0.55))
    parts = [w * smooth_noise(height, width, grain * scale, rng) for grain, w in octaves]
    return np.asarray(sum(parts[1:], parts[0]), np.float32)


def smooth_noise(height: int, width: int, cell: float, rng: np.random.Generator) -> Array:
    """Cubic B-spline noise, (height, width) float32, unit variance, nodes ``cell`` pixels apart."""
    rows, columns = _splines(height, round(cell, 2)), _splines(width, round(cell, 2))
    nodes = rng.standard_normal((rows.shape[1], columns.shape[1]), dtype=np.float32)
    return np.asarray(rows @ (nodes @ columns.T), np.float32)


_SPLINE_RMS = np.sqrt(151 / 315)  # root of the mean of the sum of squared cubic B-splines


@lru_cache(maxsize=256)
def _splines(count: int, cell: float) -> Array:
    """Cubic B-splines along a line of pixels, (count, nodes); noise keeps variance 1 on average."""
    nodes = np.arange(-1, int(np.ceil(count / cell)) + 2)
    d = np.abs(np.arange(count)[:, None] / cell - nodes)
    near, far = 2 / 3 - d * d * (1 - d / 2), np.maximum(2 - d, 0)
    return np.asarray(np.where(d < 1, near, far * far * far / 6) / _SPLINE_RMS, np.float32)


def _illumination(height: int, width: int, style: Style) -> Array:
    """Relative brightness of the lamp over the image, (height, width) float32."""
    x = np.linspace(-1, 1, width, dtype=np.float32)
    y = np.linspace(-1, 1, height, dtype=np.float32)
    corner, slope_x, slope_y = style.light
    rows = 1 - corner * y * y / 2 + slope_y * y
    columns = slope_x * x - corner * x * x / 2
    return np.asarray(rows[:, None] + columns[None, :], np.float32)


@dataclass(frozen=True)
class _Window:
    """The part of an image around a pose, with each pixel's place in the pose's frame."""

    rows: slice
    columns: slice
    u: Array  # pixels across, (h, w)
    v: Array  # pixels along, (h, w)

    @classmethod
    def around(
        cls, shape: tuple[int, ...], x: float, y: float, angle: float, reach: float
    ) -> _Window | None:
        """The window of a square of the given reach; None where it misses the image."""
        middle = np.array([x, y])
        return cls.of(shape, x, y, angle, middle - reach, middle + reach)

    @classmethod
    def of(
        cls,
        shape: tuple[int, ...],
        x: float,
        y: float,
        angle: float,
        low: npt.NDArray[np.floating],
        high: npt.NDArray[np.floating],
    ) -> _Window | None:
        """The window of a box from low (x, y) to high (x, y); None where it misses the image."""
        left, right = max(int(low[0]), 0), min(int(high[0]) + 2, shape[1])
        top, bottom = max(int(low[1]), 0), min(int(high[1]) + 2, shape[0])
        if top >= bottom or left >= right:
            return None
        c, s = np.float32(np.cos(np.radians(angle))), np.float32(np.sin(np.radians(angle)))
        dx = (np.arange(left, right) - x).astype(np.float32)[None, :]
        dy = (np.arange(top, bottom) - y).astype(np.float32)[:, None]
        return cls(slice(top, bottom), slice(left, right), dy * c - dx * s, dx * c + dy * s)
