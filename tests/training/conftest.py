"""Tiny labelled sets that can be learned: a disc whose radius tells the class."""

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from fertiray.data.labelled import LabelledCrops


def disc(radius: int, rng: np.random.Generator, size: int = 32) -> np.ndarray:
    image = rng.integers(180, 220, (size, size, 3)).astype(np.uint8)
    cv2.circle(image, (size // 2, size // 2), radius, (60, 60, 60), -1)
    return image


def make_discs(
    count: int = 120, classes: tuple[str, ...] = ("unbound", "bound"), size: int = 32, seed: int = 0
) -> LabelledCrops:
    """Crops in memory; each run of six is one patient."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(classes)
    step = size // 6 // (len(classes) - 1) or 1
    images = np.stack([disc(size // 6 + step * label, rng, size) for label in labels])
    patients = tuple(f"P{i // 6}" for i in range(count))
    return LabelledCrops(
        images=images,
        targets=labels[:, None].astype(np.int64),
        tasks={"class": classes},
        names=tuple(f"{i:03d}.png" for i in range(count)),
        patients=patients,
        digests=tuple(f"{i:016x}" for i in range(count)),
        groups=np.arange(count) // 6,
        facets={},
        aspects=rng.uniform(1.1, 2.6, count).astype(np.float32),
        excluded=(),
    )


def make_graded(count: int = 48, size: int = 28) -> LabelledCrops:
    """The same with three grades, some of them missing."""
    crops = make_discs(count, ("0", "1", "2"), size)
    first = crops.targets[:, 0]
    targets = np.stack([first, (first > 0).astype(int), (first > 1).astype(int)], 1)
    targets[::5, 1] = targets[1::7, 2] = -100
    return dataclasses.replace(
        crops,
        targets=targets.astype(np.int64),
        tasks={"EXP": ("0", "1", "2"), "ICM": ("A", "B"), "TE": ("A", "B")},
    )


@pytest.fixture(scope="session")
def crops() -> LabelledCrops:
    return make_discs()


@pytest.fixture(scope="session")
def discs() -> Callable[..., LabelledCrops]:
    return make_discs


@pytest.fixture(scope="session")
def graded() -> Callable[..., LabelledCrops]:
    return make_graded
