"""How much light a stained smear takes away, and which colours its stain falls into.

Everything is relative to the image's own background, so stain, lamp and white balance drop out:
the *attenuation* of a pixel is ``1 - I / B`` per channel (0 = clear background, 1 = no light
left). Attenuation rather than optical density because the optics blur intensities, not their
logarithms: the half maximum of the attenuation is where the edge of a blurred object is.

Shapes: H, W rows and columns of the image; K clusters.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

CLUSTERS = 4
"""Pale stain (tails, plasma), debris, acrosome, nucleus; the background is left out before."""

_SAMPLES = 40_000
_SURFACE_SIDE = 96


@dataclass(frozen=True)
class Background:
    """The light that would reach each pixel of an image without the smear.

    Attributes:
        surface: (h, w, 3) float32 RGB, at least 1, of far fewer pixels than the image (it is
            smooth); of the negative image where ``inverted``.
        inverted: the background is the dark side.
    """

    surface: Floats
    inverted: bool

    @property
    def colour(self) -> tuple[float, float, float]:
        """Median RGB of the background as the image shows it, in [0, 255]."""
        red, green, blue = np.median(self.surface.reshape(-1, 3), axis=0).tolist()
        return (255 - red, 255 - green, 255 - blue) if self.inverted else (red, green, blue)

    def attenuation(self, image: Image, channel: int | None = None) -> Floats:
        """Share of the light taken away, 0 where the image is brighter than its background.

        Args:
            image: HWC uint8 RGB in [0, 255], in full or reduced.
            channel: only this one, for speed.

        Returns:
            (H, W, 3) float32 in [0, 1], or (H, W) for one channel.
        """
        height, width = image.shape[:2]
        surface, light = self.surface, image
        if channel is not None:
            surface, light = surface[..., channel], np.asarray(cv2.extractChannel(image, channel))
        if self.surface.shape[:2] != (1, 1):
            resized = cv2.resize(surface, (width, height), interpolation=cv2.INTER_LINEAR)
            surface = np.asarray(resized, np.float32)
        bright = light.astype(np.float32)
        if self.inverted:
            bright = 255 - bright
        return np.asarray(np.maximum(1 - bright / surface, 0), np.float32)


@dataclass(frozen=True)
class Stain:
    """The colour clusters of one image.

    Attributes:
        centres: (K, 3) float32 attenuations, from the weakest to the strongest.
        channel: where the nuclear stain absorbs most (green for the blue-violet of Diff-Quik);
            acrosome and tail, alike in overall darkness, differ most there. The attenuation in
            it is called the *strength* of the stain.
        nucleus: strength of the strongest cluster, the nuclei's.
    """

    centres: Floats
    channel: int
    nucleus: float


def background(image: Image, *, flat: bool) -> Background:
    """Estimates the background from the image itself.

    A second-order polynomial in x and y per channel (vignetting, tilted lamp) is fitted to the
    pixels near the most frequent grey value and refitted without those it leaves far off.

    Args:
        image: HWC uint8 RGB in [0, 255].
        flat: fit a constant instead, for images so small that a head would bend the surface.
    """
    height, width = image.shape[:2]
    scale = min(1.0, _SURFACE_SIDE / max(height, width))
    side = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image, side, interpolation=cv2.INTER_AREA).astype(np.float32)
    pixels = small.reshape(-1, 3)
    luminance = pixels.mean(axis=1)
    mode = _mode(luminance)
    inverted = bool(np.sum(luminance - mode) > 0 and mode < 0.5 * luminance.max())
    if inverted:
        pixels, luminance, mode = 255 - pixels, 255 - luminance, 255 - mode
    near = np.abs(luminance - mode) < max(6.0, 0.12 * mode)
    if flat:
        constant = np.median(pixels[near], axis=0).astype(np.float32).reshape(1, 1, 3)
        return Background(np.maximum(constant, np.float32(1)), inverted)
    terms = _terms(side)
    fitted, ridge = pixels, 1e-3 * np.eye(6, dtype=np.float32)
    for _ in range(3):
        here = terms[near]
        fitted = terms @ np.linalg.solve(here.T @ here + ridge, here.T @ pixels[near])
        residual = (pixels - fitted).mean(axis=1)
        spread = 1.4826 * float(np.median(np.abs(residual[near]))) + 0.5
        near = np.abs(residual) < 3 * spread
    surface = fitted.reshape(side[1], side[0], 3).astype(np.float32)
    return Background(np.maximum(surface, np.float32(1)), inverted)


def cluster(attenuated: Floats) -> Stain:
    """K-means colour clustering of an image's stained pixels.

    Deterministic: pixels are taken at a fixed stride and the first labels are equal steps of
    darkness, so no random seed takes part.

    Args:
        attenuated: (H, W, 3) float32 of :meth:`Background.attenuation`.
    """
    colours = attenuated.reshape(-1, 3)
    colours = colours[:: max(1, len(colours) // _SAMPLES)]
    darkness = np.sqrt(np.einsum("nc,nc->n", colours, colours))
    clear = float(np.median(darkness[darkness <= np.median(darkness)]))
    stained = darkness > 3 * clear + 0.02
    samples, level = np.ascontiguousarray(colours[stained]), darkness[stained]
    if len(samples) < CLUSTERS:
        return Stain(np.zeros((1, 3), np.float32), 0, 0.0)
    steps = np.linspace(level.min(), np.percentile(level, 98), CLUSTERS + 1)[1:-1]
    labels = np.digitize(level, steps).astype(np.int32).reshape(-1, 1)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_MAX_ITER, 20, 1e-3)
    _, _, found = cv2.kmeans(samples, CLUSTERS, labels, criteria, 1, cv2.KMEANS_USE_INITIAL_LABELS)
    centres = np.asarray(found, np.float32)
    centres = centres[np.argsort(np.linalg.norm(centres, axis=1))]
    channel = int(np.argmax(centres[-1]))
    return Stain(centres, channel, float(centres[-1, channel]))


def separate(wanted: Floats, unwanted: Floats) -> tuple[Floats, float]:
    """Fisher's linear discriminant between two sets of colours.

    Args:
        wanted: (N, 3) float32 attenuations.
        unwanted: (M, 3) float32.

    Returns:
        Weights (3,) float32 and offset: ``a @ weights + offset`` is +1 on the mean of the wanted
        colours, -1 on the mean of the unwanted, 0 half way.
    """
    within = (np.cov(wanted.T) + np.cov(unwanted.T)) / 2 + 1e-3 * np.eye(3)
    one, two = wanted.mean(axis=0), unwanted.mean(axis=0)
    weights = np.linalg.solve(within, one - two)
    weights *= 2 / (weights @ (one - two))
    return weights.astype(np.float32), float(-weights @ (one + two) / 2)


def _mode(values: Floats) -> float:
    """Most frequent grey value, from a smoothed histogram."""
    counts = np.bincount(values.astype(np.int64), minlength=256).astype(np.float64)
    return float(np.argmax(np.convolve(counts, np.bartlett(15), mode="same")))


def _terms(side: tuple[int, int]) -> Floats:
    """The polynomial's six terms at each pixel: (H * W, 6) float32, x and y in [-1, 1]."""
    x, y = np.meshgrid(
        np.linspace(-1, 1, side[0], dtype=np.float32),
        np.linspace(-1, 1, side[1], dtype=np.float32),
    )
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
    return np.asarray(terms.reshape(-1, 6), dtype=np.float32)
