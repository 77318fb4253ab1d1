"""Parameter groups, optimisers and learning-rate schedules."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
)

from fertiray.training.config import TrainConfig

PLATEAU_FACTOR, PLATEAU_PATIENCE = 0.5, 2  # embryo_msres

# Names under which the networks keep what comes from ImageNet.
_BACKBONES = ("backbone", "resnet", "features")


def classifier(model: nn.Module) -> nn.Module:
    """The last layer of a network: of timm's by their own name for it, else ``classifier``."""
    get_classifier = getattr(model, "get_classifier", None)
    module: nn.Module = get_classifier() if get_classifier else model.classifier  # type: ignore[assignment]
    return module


def backbone(model: nn.Module) -> nn.Module | None:
    """The part that comes from ImageNet; ``None`` where no part of the network is named as one."""
    return next((getattr(model, name) for name in _BACKBONES if hasattr(model, name)), None)


def body_and_head(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters of the backbone, and those of everything behind it.

    A network without a part named as one has everything but its last layer for a backbone.
    """
    found = backbone(model)
    if found is not None:
        body = list(found.parameters())
    else:
        last = {id(parameter) for parameter in classifier(model).parameters()}
        body = [parameter for parameter in model.parameters() if id(parameter) not in last]
    inside = {id(parameter) for parameter in body}
    return body, [parameter for parameter in model.parameters() if id(parameter) not in inside]


def make_optimizer(
    model: nn.Module, objective: nn.Module, config: TrainConfig, *, head_only: bool
) -> torch.optim.Optimizer:
    """The optimiser of a phase, over the parameters that are trained in it.

    Args:
        model: the network.
        objective: the loss; the weights that it learns go without weight decay.
        config: the recipe.
        head_only: the phase in which only the classification layer is trained.
    """
    head_lr = config.head_lr or config.lr
    body, head = body_and_head(model)
    if head_only:
        chosen = [(list(classifier(model).parameters()), config.freeze_lr or head_lr)]
    else:
        chosen = [(body, config.lr), (head, head_lr)]
    groups = [{"params": _trained(part), "lr": rate} for part, rate in chosen]
    groups.append({"params": _trained(objective.parameters()), "lr": head_lr, "weight_decay": 0.0})
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, weight_decay=config.weight_decay)
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay)


def _trained(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [parameter for parameter in parameters if parameter.requires_grad]


def make_schedule(optimizer: torch.optim.Optimizer, config: TrainConfig, steps: int) -> LRScheduler:
    """The schedule of a phase of so many steps; ``plateau`` is stepped once an epoch."""
    if config.schedule == "onecycle":
        peaks = [float(group["lr"]) for group in optimizer.param_groups]
        return OneCycleLR(optimizer, peaks, total_steps=steps)
    if config.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=steps)
    if config.schedule == "plateau":
        return ReduceLROnPlateau(optimizer, factor=PLATEAU_FACTOR, patience=PLATEAU_PATIENCE)
    return ConstantLR(optimizer, factor=1.0)
