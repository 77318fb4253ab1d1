"""A sperm head whose place is known."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest


@pytest.fixture(scope="session")
def smear() -> Callable[[int, int], np.ndarray]:
    """Draws an image of a given width and height with a head in its middle."""

    def draw(width: int, height: int) -> np.ndarray:
        """One upright stained head of 60 x 36 px, paler at its acrosome, with a tail, on grain."""
        image = np.full((height, width, 3), (225, 228, 232), np.uint8)
        x, y = width // 2, height // 2
        cv2.line(image, (x, y), (x, height), (172, 182, 226), 5)
        cv2.ellipse(image, (x, y), (18, 30), 0, 0, 360, (50, 5, 190), -1)
        cv2.ellipse(image, (x, y), (18, 30), 0, 200, 340, (150, 108, 220), -1)
        grain = np.random.default_rng(0).normal(0, 2, image.shape)
        return (cv2.GaussianBlur(image, (0, 0), 0.8) + grain).clip(0, 255).astype(np.uint8)

    return draw
