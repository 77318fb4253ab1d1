"""The Scorer: encoded crops in, one row per crop out, always.

It is the one object behind ``fertiray score``, Ray Data and Ray Serve. A crop is decoded once and
goes through every checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from fertiray import checkpoint
from fertiray.data.images import CROP, ImageError, decode
from fertiray.errors import InputError
from fertiray.models.predict import Predictor, call
from fertiray.models.preprocess import Preprocessing, resize_crop
from fertiray.scoring.engine import EAGER, torch_device, use

# A network has an opinion on such a crop too, often a firm one.
BLANK = "blank: every pixel has the same colour, so there is no head to score"


@dataclass(frozen=True)
class ScoredModel:
    """One checkpoint's scores for a batch; rows of crops without a score hold NaN and -1.

    Attributes:
        name: the checkpoint's name.
        probabilities: N x K float32.
        labels: N int64 class indices, -1 where there is no score.
        ood: N float32; above 1 for a crop unlike the training's. NaN without a detector.
        spread: N float32; standard deviation of the most probable class's probability over the
            test-time views. NaN for one view.
    """

    name: str
    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]
    ood: NDArray[np.float32]
    spread: NDArray[np.float32]


@dataclass(frozen=True)
class ScoredBatch:
    """What became of a batch of N crops, in the order given.

    Attributes:
        models: one entry for each checkpoint.
        stages: where a crop failed (``decode`` or ``score``), None where it has scores.
        errors: why it failed, None where it has scores.
        images: the decoded crops, HWC uint8 RGB, None where there is nothing to score.
        seconds: that ``decode`` and ``network`` took.
    """

    models: tuple[ScoredModel, ...]
    stages: tuple[str | None, ...]
    errors: tuple[str | None, ...]
    images: tuple[NDArray[np.uint8] | None, ...]
    seconds: dict[str, float]


class Scorer:
    """Several checkpoints behind one decode.

    Args:
        folders: checkpoint folders, local or ``s3://``; their names must differ.
        device: a torch device; ``auto`` takes a GPU where there is one.
        engines: how each checkpoint is executed, as :mod:`fertiray.scoring.engine` settled it;
            by default all in float32 by PyTorch.
        streams: threads that will call this object at the same time.
        threads: threads of torch and OpenCV in this process; ``None`` leaves them as they are.
    """

    def __init__(
        self,
        folders: Sequence[str],
        *,
        device: str = "auto",
        engines: Sequence[str] = (),
        streams: int = 1,
        threads: int | None = None,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
            cv2.setNumThreads(threads)
        self.device = torch_device(device)
        self.metas: list[checkpoint.Meta] = []
        self._predictors: list[Predictor] = []
        for folder, engine in zip(folders, engines or [EAGER] * len(folders), strict=True):
            predictor, meta = checkpoint.load_predictor(folder, device=self.device)
            use(predictor, engine, streams)
            self.metas.append(meta)
            self._predictors.append(predictor)
        unique_names(self.metas)

    @classmethod
    def from_checkpoint(cls, folder: str, *, device: str = "auto", engine: str = EAGER) -> Scorer:
        """A Scorer of one checkpoint."""
        return cls([folder], device=device, engines=[engine])

    def __call__(self, crops: Sequence[bytes | NDArray[np.uint8]]) -> ScoredBatch:
        """Scores a batch; never raises for a bad crop.

        Args:
            crops: encoded images, or HWC uint8 RGB arrays, in any mixture and of any size.

        Returns:
            Scores or a reason for each crop, in the order given.
        """
        images: list[NDArray[np.uint8] | None] = []
        stages: list[str | None] = [None] * len(crops)
        errors: list[str | None] = [None] * len(crops)
        began = time.perf_counter()
        for place, crop in enumerate(crops):
            image = None
            try:
                image = _pixels(crop)
            except ImageError as error:
                stages[place], errors[place] = "decode", str(error)
            if image is not None and _blank(image):
                image = None
                stages[place], errors[place] = "score", BLANK
            images.append(image)
        decoded = time.perf_counter()
        good = np.array([place for place, image in enumerate(images) if image is not None], int)
        resized: dict[Preprocessing, NDArray[np.uint8]] = {}
        models: list[ScoredModel] = []
        for meta, predictor in zip(self.metas, self._predictors, strict=True):
            probabilities = np.full((len(crops), len(meta.classes)), np.nan, np.float32)
            labels = np.full(len(crops), -1, np.int64)
            ood, spread = (np.full(len(crops), np.nan, np.float32) for _ in range(2))
            if len(good):
                key = meta.preprocessing
                if key not in resized:
                    resized[key] = np.stack(
                        [resize_crop(image, key) for image in images if image is not None]
                    )
                predicted = predictor.predict(resized[key])
                (probabilities[good],) = predicted.probabilities.values()
                (spread[good],) = predicted.spread.values()
                if predicted.ood is not None:
                    ood[good] = predicted.ood
                labels[good] = call(
                    probabilities[good],
                    meta.classes.index(meta.positive),
                    meta.operating.threshold,
                )
            for place in good[~np.isfinite(probabilities[good]).all(1)]:
                stages[place] = "score"
                errors[place] = f"not_finite: {meta.name} gave no finite probability"
            models.append(ScoredModel(meta.name, probabilities, labels, ood, spread))
        seconds = {"decode": decoded - began, "network": time.perf_counter() - decoded}
        return ScoredBatch(tuple(models), tuple(stages), tuple(errors), tuple(images), seconds)


def unique_names(metas: Sequence[checkpoint.Meta]) -> None:
    """Raises where two checkpoints would report under one name.

    Raises:
        InputError: the name that occurs twice.
    """
    names = [meta.name for meta in metas]
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                f"--checkpoint: two checkpoints are named {name!r}; train one into another folder"
            )


def _pixels(crop: bytes | NDArray[np.uint8]) -> NDArray[np.uint8]:
    if isinstance(crop, np.ndarray):
        if crop.dtype != np.uint8 or crop.ndim != 3 or crop.shape[2] != 3 or 0 in crop.shape:
            raise ImageError("unsupported", f"array {crop.shape} {crop.dtype} is not HWC uint8 RGB")
        return crop
    return decode(crop, limits=CROP)


def _blank(image: NDArray[np.uint8]) -> bool:
    """Whether all pixels have one colour; a look at a few tells it of nearly every crop."""
    return all(bool((part == image[0, 0]).all()) for part in (image[::16, ::16], image))


def class_columns(metas: Sequence[checkpoint.Meta]) -> list[str]:
    """Names of the probability columns of all checkpoints together, without repetition."""
    return list(dict.fromkeys(f"p_{name}" for meta in metas for name in meta.classes))
