"""A batch's places to what the network takes and ought to give.

B crops of the whole batch, n of them this worker's; K classes, T tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fertiray.data.labelled import UNLABELLED, LabelledCrops
from fertiray.models.predict import Predictor, autocast
from fertiray.training import frozen
from fertiray.training.augment import augment, recolour
from fertiray.training.batches import Batch
from fertiray.training.config import TrainConfig
from fertiray.training.losses import Targets


@dataclass(frozen=True)
class Cache:
    """Features of the frozen layers for every crop, and the head that is trained on them."""

    features: Tensor
    head: nn.Module

    @classmethod
    def make(cls, config: TrainConfig, crops: LabelledCrops, predictor: Predictor) -> Cache | None:
        """The features, or None where something before the trained layers changes."""
        part = frozen.trained_head(predictor.model)
        whole_network = config.loss.triplet or config.loss.distil or config.ema
        constant = frozen.is_constant(config.augmentation) and config.views == "one"
        if part is None or whole_network or not constant or config.precision != "fp32":
            return None
        name, head = part
        return cls(frozen.features(predictor, crops.images, name), head)


class Inputs:
    """Makes inputs and targets from the images in memory.

    Args:
        config: the recipe.
        crops: the data.
        predictor: gives the normalisation and the device.
        teacher: network to distil from, or None.
    """

    def __init__(
        self,
        config: TrainConfig,
        crops: LabelledCrops,
        predictor: Predictor,
        teacher: nn.Module | None,
    ) -> None:
        self.config = config
        self.normalise, self.device = predictor.program.normalise, predictor.device
        self.images = torch.from_numpy(crops.images)
        self.labels = torch.from_numpy(crops.targets)
        self.aspects = torch.from_numpy(crops.aspects)
        self.classes = len(crops.classes)
        self.teacher = teacher.to(self.device).eval() if teacher is not None else None

    def __call__(
        self, batch: Batch, start: int, stop: int, cache: Cache | None
    ) -> tuple[Tensor, Targets]:
        """The network's input for the places from ``start`` to before ``stop``, and its targets."""
        if cache is None:
            x, soft = self._augmented(batch, torch.arange(start, stop))
        else:
            picked = batch.whole[start:stop]
            x, soft = cache.features[picked].to(self.device), self._one_hot(picked)
        whole = self.labels[batch.whole]
        shared = (start, stop) == (batch.start, batch.stop) and stop - start < len(whole)
        return x, Targets(
            labels=whole[start:stop].to(self.device),
            soft=soft.to(self.device),
            graded=tuple((whole != UNLABELLED).sum(0).clamp(min=1).tolist()),
            batch=len(whole),
            aspects=self.aspects[batch.whole[start:stop]].to(self.device),
            teacher=self._teach(x),
            start=start if shared else None,
        )

    def _augmented(self, batch: Batch, own: Tensor) -> tuple[Tensor, Tensor]:
        """Crops after augmentation and MixUp; a partner may be another worker's crop."""
        needed, where = torch.unique(torch.cat([own, batch.partner[own]]), return_inverse=True)
        picked = batch.whole[needed]
        settings, draws = self.config.augmentation, batch.draws.take(needed)
        rgb = self.normalise.rgb(self.images[picked].to(self.device))
        x = augment(self.normalise.finish(recolour(rgb, settings, draws)), settings, draws)
        changed = batch.changed[needed]
        if not changed.all():
            plain = self.normalise.finish(rgb)
            x = torch.where(changed.view(-1, 1, 1, 1).to(self.device), x, plain)
        soft = self._one_hot(picked)
        mine, other = where[: len(own)], where[len(own) :]
        if batch.blend < 1:
            x = batch.blend * x[mine] + (1 - batch.blend) * x[other]
            soft = batch.blend * soft[mine] + (1 - batch.blend) * soft[other]
        if self.config.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        return x, soft

    def _one_hot(self, picked: Tensor) -> Tensor:
        return F.one_hot(self.labels[picked, 0].clamp(min=0), self.classes).float()

    def _teach(self, x: Tensor) -> Tensor | None:
        if self.teacher is None or not self.config.loss.distil:
            return None
        with torch.no_grad(), autocast(self.device, self.config.precision):
            logits: Tensor = self.teacher(x)
        return logits.float()
