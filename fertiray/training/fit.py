"""The training loop."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional as F

from fertiray.data.labelled import LabelledCrops
from fertiray.data.splits import holdout, join_groups
from fertiray.models.predict import Predictor
from fertiray.models.registry import build_model
from fertiray.training.augment import augment, mixup
from fertiray.training.config import TrainConfig


@dataclass(frozen=True)
class Epoch:
    """One line of a training's history."""

    epoch: int
    training_loss: float
    validation_loss: float
    validation_accuracy: float


@dataclass(frozen=True)
class Fitted:
    """A trained network and what its validation set says.

    Attributes:
        model: the network with the parameters of the best epoch, in evaluation mode.
        history: one entry an epoch.
        best: the epoch with the lowest validation loss, which was kept.
        validation: indices of the held-out crops.
        probabilities: len(validation) x K float32, softmax of the kept network.
    """

    model: nn.Module
    history: tuple[Epoch, ...]
    best: Epoch
    validation: NDArray[np.int64]
    probabilities: NDArray[np.float32]


def fit(
    config: TrainConfig,
    crops: LabelledCrops,
    *,
    device: str = "cpu",
    report: Callable[[Epoch], None] | None = None,
) -> Fitted:
    """Trains one network and keeps the epoch with the lowest validation loss.

    The same configuration, crops and device give the same network: every random draw comes from
    ``config.seed``.

    Args:
        config: the recipe.
        crops: labelled crops at ``config.preprocessing.size``.
        device: where to train.
        report: called after each epoch.

    Raises:
        InputError: too few patients or crops to hold a validation set out.
    """
    groups = join_groups(crops.patients, crops.digests)
    training, validation = holdout(crops.labels, groups, config.validation, config.seed)
    with _seeded(config.seed):
        model = build_model(
            config.model,
            len(crops.classes),
            in_channels=config.preprocessing.channels,
            size=config.preprocessing.size,
            args=config.model_args,
        ).to(device)
    generator = torch.Generator().manual_seed(config.seed)
    images = torch.from_numpy(crops.images)
    labels = torch.from_numpy(crops.labels)
    weights = _class_weights(labels[training], len(crops.classes)) if config.class_weights else None
    steps = config.epochs * -(-len(training) // config.batch_size)
    optimizer = _optimizer(model, config)
    schedule = _schedule(optimizer, config, steps)
    ema = ModelEmaV3(model, decay=config.ema, use_warmup=True) if config.ema else None
    average: nn.Module = ema.module if ema is not None else model
    predictor = Predictor(average, config.preprocessing, device)

    history: list[Epoch] = []
    best: Epoch | None = None
    kept = model.state_dict()
    step = 0
    for number in range(1, config.epochs + 1):
        model.train()
        if config.freeze_batchnorm:
            _batchnorm_eval(model)
        total = 0.0
        order = torch.from_numpy(training)[torch.randperm(len(training), generator=generator)]
        for picked in order.split(config.batch_size):
            batch = predictor.normalise(images[picked].to(device))
            batch = augment(batch, config.augmentation, generator)
            targets = F.one_hot(labels[picked], len(crops.classes)).float().to(device)
            if config.augmentation.mixup:
                batch, targets = mixup(batch, targets, config.augmentation.mixup, generator)
            loss = F.cross_entropy(
                model(batch),
                targets,
                weight=None if weights is None else weights.to(device),
                label_smoothing=config.label_smoothing,
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if config.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimizer.step()
            schedule.step()
            step += 1
            if ema is not None:
                ema.update(model, step)
            total += loss.item() * len(picked)
        probabilities = predictor(crops.images[validation])
        epoch = _epoch(number, total / len(training), probabilities, crops.labels[validation])
        history.append(epoch)
        if report is not None:
            report(epoch)
        if best is None or epoch.validation_loss < best.validation_loss:
            best, kept = epoch, copy.deepcopy(average.state_dict())
    assert best is not None  # epochs >= 1
    average.load_state_dict(kept)
    probabilities = predictor(crops.images[validation])
    return Fitted(average.cpu(), tuple(history), best, validation, probabilities)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Initial weights come from torch's global generator, which is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _epoch(
    number: int, loss: float, probabilities: NDArray[np.float32], labels: NDArray[np.int64]
) -> Epoch:
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0]
    return Epoch(
        number,
        loss,
        float(-np.log(np.maximum(own, 1e-12)).mean()),
        float((probabilities.argmax(1) == labels).mean()),
    )


def _class_weights(labels: Tensor, classes: int) -> Tensor:
    counts = torch.bincount(labels, minlength=classes)
    return len(labels) / (classes * counts.float())


def _optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    groups = [{"params": list(model.parameters()), "lr": config.lr}]
    if config.head_lr is not None:
        head = list(_classifier(model).parameters())
        own = {id(parameter) for parameter in head}
        body = [parameter for parameter in model.parameters() if id(parameter) not in own]
        groups = [{"params": body, "lr": config.lr}, {"params": head, "lr": config.head_lr}]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, weight_decay=config.weight_decay)
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay)


def _classifier(model: nn.Module) -> nn.Module:
    get_classifier = getattr(model, "get_classifier", None)  # timm's networks
    module: nn.Module = get_classifier() if get_classifier else model.classifier  # type: ignore[assignment]
    return module


def _schedule(
    optimizer: torch.optim.Optimizer, config: TrainConfig, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    if config.schedule == "onecycle":
        peaks = [float(group["lr"]) for group in optimizer.param_groups]
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=steps)
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


def _batchnorm_eval(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
