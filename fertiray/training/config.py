"""The settings of one training, frozen and strict."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from fertiray.models.preprocess import Preprocessing


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training crop, drawn anew for each crop and epoch.

    Attributes:
        rotation: largest turn, degrees either way.
        scale: largest relative change of size, either way.
        shift: largest shift, as a share of the side, either way.
        hflip: mirror left and right with probability one half.
        gain: largest relative change of contrast about the crop's mean, either way.
        offset: largest change of brightness, in units of the input's deviation, either way.
        noise: standard deviation of Gaussian noise, in the same units.
        mixup: parameter of the Beta distribution of MixUp (Zhang et al. 2018); 0 for none.
    """

    rotation: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    hflip: bool = False
    gain: float = 0.0
    offset: float = 0.0
    noise: float = 0.0
    mixup: float = 0.0


@dataclass(frozen=True)
class TrainConfig:
    """One training.

    Attributes:
        model: registered name of the network.
        preprocessing: from crop to network input; stored in the checkpoint.
        epochs: passes over the training set.
        batch_size: crops a step.
        optimizer: ``sgd`` (momentum 0.9) or ``adamw``.
        lr: learning rate, the peak where it is scheduled.
        head_lr: learning rate of the classification layer; ``None`` for the same.
        schedule: ``constant``, or ``onecycle`` (Smith & Topin 2018) over all steps.
        weight_decay: of the optimiser.
        label_smoothing: in [0, 1).
        class_weights: weigh the loss by inverse class frequency.
        clip: largest norm of the gradient; ``None`` for no limit.
        ema: decay of an exponential moving average of the parameters, which is what is validated
            and kept; 0 for none.
        freeze_batchnorm: keep the pretrained BatchNorm statistics.
        augmentation: random changes of the training crops.
        validation: share of the crops held out, whole patients where they are known.
        threshold: a crop is positive when its probability is at least this; never tuned on test.
        seed: of the split, the initial weights, the order and the augmentation.
        model_args: the network's own arguments.
    """

    model: str
    preprocessing: Preprocessing
    epochs: int
    batch_size: int
    optimizer: Literal["sgd", "adamw"]
    lr: float
    head_lr: float | None = None
    schedule: Literal["constant", "onecycle"] = "constant"
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    class_weights: bool = False
    clip: float | None = None
    ema: float = 0.0
    freeze_batchnorm: bool = False
    augmentation: Augmentation = field(default_factory=Augmentation)
    validation: float = 0.2
    threshold: float = 0.5
    seed: int = 0
    model_args: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size) < 1:
            raise ValueError("epochs and batch_size must be at least 1")
        if not 0 < self.lr < float("inf"):
            raise ValueError(f"lr must be positive, got {self.lr}")
        if not 0 < self.validation <= 0.5:
            raise ValueError(f"validation must be in (0, 0.5], got {self.validation}")
        if not 0 <= self.ema < 1 or not 0 <= self.label_smoothing < 1:
            raise ValueError("ema and label_smoothing must be in [0, 1)")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], got {self.threshold}")
