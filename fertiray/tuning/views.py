"""A data set as recipes look at it, read once for all trials that look at it in the same way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fertiray import config
from fertiray.data.datasets import Listing
from fertiray.data.labelled import LabelledCrops, by_task, checked, load_labelled
from fertiray.data.reading import read_pictures
from fertiray.errors import InputError
from fertiray.models.preprocess import resize_crop
from fertiray.papers import Paper
from fertiray.training.config import TrainConfig
from fertiray.training.train import positive_class


@dataclass(frozen=True)
class View:
    """A data set as some recipes look at it.

    Attributes:
        crops: the crops of all tasks.
        others: M x S x S x 3 uint8, other crops of the negative classes, never trained on; None
            where the study has none.
    """

    crops: LabelledCrops
    others: NDArray[np.uint8] | None = None


class Views:
    """A data set, read once for each way that recipes look at it.

    Args:
        paper: gives the classes.
        data: labelled folder or labelled crop store, local or ``s3://``.
        held_out: another one, whose crops of the negative classes are the views' ``others``.
        aspects: measure the heads' aspect ratios.

    Attributes:
        held_out_digest: identifies the pixels of ``others``, once a view was taken.
        held_out_seen: how many of them are among the data, and so are not held out at all.
    """

    def __init__(self, paper: Paper, data: str, held_out: str | None, *, aspects: bool) -> None:
        self.paper, self.data, self.held_out, self.aspects = paper, data, held_out, aspects
        self.held_out_digest: str | None = None
        self.held_out_seen = 0
        self._key: str | None = None
        self._view: View | None = None

    @staticmethod
    def key(settings: TrainConfig) -> str:
        """The same for recipes that look at a data set in the same way."""
        seen = settings.preprocessing
        return f"{seen.size} px, {seen.window:g} of the side, {settings.frame}"

    def __call__(self, settings: TrainConfig) -> View:
        """The view of a recipe; the last one is kept.

        Raises:
            InputError: as ``load_labelled``.
        """
        if self._view is None or self.key(settings) != self._key:
            crops = load_labelled(
                self.data,
                settings.preprocessing,
                self.paper.known,
                frame=settings.frame,
                aspects=self.aspects,
            )
            self._view = View(crops, self._others(settings, crops))
            self._key = self.key(settings)
        return self._view

    def _others(self, settings: TrainConfig, crops: LabelledCrops) -> NDArray[np.uint8] | None:
        if self.held_out is None:
            return None
        if settings.frame != "as_is":
            raise InputError("--held-out: images are taken as they are; set frame=as_is")
        tasks = by_task(self.paper.known)
        positive = positive_class(self.paper, crops, self.data)
        pictures, _ = read_pictures(
            checked(Listing.of(self.held_out), tasks),
            lambda item, image: (resize_crop(image, settings.preprocessing), True),
        )
        task = next(iter(tasks))
        left_out = (positive, None)
        found = [picture for picture in pictures if picture.labels.get(task) not in left_out]
        if not found:
            raise InputError(
                f"--held-out {self.held_out}: no image of another class than {positive}"
            )
        self.held_out_digest = config.digest([picture.digest for picture in found])
        known = {*crops.digests}
        self.held_out_seen = sum(picture.digest in known for picture in found)
        return np.stack([picture.crop for picture in found])
