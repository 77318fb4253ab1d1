"""Features of frozen layers, computed once.

Where nothing upstream of the trained layers learns, draws or is augmented, their input is the same
in every epoch.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fertiray.models.predict import Predictor
from fertiray.models.staged import Staged, intermediates
from fertiray.training.config import Augmentation
from fertiray.training.optim import classifier


def trained_head(model: nn.Module) -> tuple[str, nn.Module] | None:
    """The module that holds all trained parameters, and the named tensor that it takes.

    None where more than the layers after one named tensor is trained.
    """
    head = classifier(model)
    if isinstance(head, nn.ModuleDict):
        return None  # a head for each task
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    if not trained or not trained <= {id(parameter) for parameter in head.parameters()}:
        return None
    return getattr(model, "head_input", Staged.head_input), head


def is_constant(augmentation: Augmentation) -> bool:
    """Whether a crop reaches the network unchanged in every epoch."""
    return augmentation == Augmentation()


@torch.no_grad()
def features(predictor: Predictor, crops: NDArray[np.uint8], name: str) -> Tensor:
    """The named tensor of every crop, N x ... float32 on the CPU, in evaluation mode."""
    model, normalise = predictor.model.eval(), predictor.program.normalise
    return torch.cat(
        [
            intermediates(model, normalise(part.to(predictor.device)))[name].float().cpu()
            for part in torch.from_numpy(crops).split(predictor.batch_size)
        ]
    )
