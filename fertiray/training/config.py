"""The settings of one training, frozen and strict."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from fertiray.models.predict import Precision, Views
from fertiray.models.preprocess import Preprocessing


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training crop, drawn anew for each crop and epoch.

    Attributes:
        rotation: largest turn, degrees either way.
        scale: largest relative change of size, either way.
        shift: largest shift, as a share of the side, either way.
        shear: largest shear, degrees either way.
        hflip: mirror left and right with probability one half.
        vflip: mirror up and down with probability one half.
        gain: largest relative change of contrast about the crop's mean, either way.
        offset: largest change of brightness, in units of the input's deviation, either way.
        noise: standard deviation of Gaussian noise, in the same units.
        saturation: largest relative change of colour saturation, either way.
        hue: largest turn of the hue, as a share of the circle, either way.
        gamma: lower and upper limit of the exponent of a gamma curve; (1, 1) for none.
        blur: probability of a light 5 x 5 Gaussian blur (sigma 0.1 to 1 pixel).
        mixup: parameter of the Beta distribution of MixUp (Zhang et al. 2018); 0 for none.
    """

    rotation: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    shear: float = 0.0
    hflip: bool = False
    vflip: bool = False
    gain: float = 0.0
    offset: float = 0.0
    noise: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    gamma: tuple[float, float] = (1.0, 1.0)
    blur: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        for name in (
            *("rotation", "scale", "shift", "shear", "gain", "offset", "noise"),
            *("saturation", "hue", "mixup"),
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not 0 < self.gamma[0] <= self.gamma[1]:
            raise ValueError(f"gamma must be two rising positive numbers, got {self.gamma}")
        if not 0 <= self.blur <= 1:
            raise ValueError(f"blur must be a probability in [0, 1], got {self.blur}")


@dataclass(frozen=True)
class Loss:
    """What is minimised: a classification term and, where asked for, terms beside it.

    Attributes:
        kind: ``cross_entropy``, or ``focal`` (Lin et al. 2017), which multiplies the cross-entropy
            of each crop by ``(1 - p_true) ** gamma``.
        gamma: of the focal loss.
        class_weights: true for inverse class frequency in the training part, or one weight a class
            in the order of the logits.
        label_smoothing: in [0, 1).
        triplet: initial weight of the triplet term (MADRNet, Eq. 13) on the embedding, over all
            valid triplets of the batch and with cosine *distance*; 0 for none.
        margin: of the triplet term.
        harc: the head-aspect-ratio term: ``paper`` as MADRNet's Eq. 14 has it (without a gradient,
            because it depends on the image alone), or ``effective``: the same penalty times the
            predicted probability of the normal class.
        harc_weight: its initial weight.
        weights: ``fixed``; ``paper``: both weights are learned as they are, without limits;
            ``bounded``: learned within (0.01, 1), with the penalty of Kendall et al. 2018.
        distil: share of a teacher's softened probabilities in the classification term (Hinton et
            al. 2015), in [0, 1]; needs ``teacher``.
        temperature: of the softening.
    """

    kind: Literal["cross_entropy", "focal"] = "cross_entropy"
    gamma: float = 2.0
    class_weights: bool | tuple[float, ...] = False
    label_smoothing: float = 0.0
    triplet: float = 0.0
    margin: float = 0.3
    harc: Literal["none", "paper", "effective"] = "none"
    harc_weight: float = 0.3
    weights: Literal["fixed", "paper", "bounded"] = "fixed"
    distil: float = 0.0
    temperature: float = 4.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError("label_smoothing must be in [0, 1)")
        if not 0 <= self.distil <= 1 or self.temperature <= 0:
            raise ValueError("distil must be in [0, 1] and temperature positive")
        if self.weights == "bounded":
            for weight in (self.triplet or 0.4, self.harc_weight):
                if not 0.01 < weight < 1:
                    raise ValueError("bounded weights must start within (0.01, 1)")
        if not isinstance(self.class_weights, bool) and min(self.class_weights, default=0) <= 0:
            raise ValueError(f"class_weights must be positive, got {self.class_weights}")
        if min(self.gamma, self.triplet, self.margin, self.harc_weight) < 0:
            raise ValueError("gamma, triplet, margin and harc_weight must be 0 or more")


@dataclass(frozen=True)
class TrainConfig:
    """One training.

    Attributes:
        model: registered name of the network.
        preprocessing: from crop to network input; stored in the checkpoint.
        epochs: passes over the training set.
        batch_size: crops a step, over all workers.
        optimizer: ``sgd`` (momentum 0.9) or ``adamw``.
        lr: learning rate, the peak where it is scheduled. Of the backbone only, where ``head_lr``
            is given.
        head_lr: learning rate of everything behind the backbone; ``None`` for the same.
        schedule: ``constant``; ``onecycle`` (Smith & Topin 2018) and ``cosine`` over all steps;
            ``plateau``: halved after two epochs without a lower validation loss.
        weight_decay: of the optimiser.
        loss: what is minimised.
        clip: largest norm of the gradient; ``None`` for no limit.
        ema: decay of an exponential moving average of the parameters, which is what is validated
            and kept; 0 for none.
        freeze_batchnorm: keep the backbone's BatchNorm statistics, those of ImageNet; layers
            behind it gather their own.
        frozen: parts of the network that stay as they are throughout, BatchNorm statistics too:
            names such as ``layer1`` or ``backbone.conv1``.
        freeze_epochs: for so many epochs the classification layer alone is trained; all before it
            is frozen, BatchNorm statistics too. Then everything is trained.
        freeze_lr: learning rate of those first epochs; ``None`` for ``head_lr``.
        augmentation: random changes of the training crops.
        parity: only the smaller classes are augmented: changed copies of their crops are added
            until every class has as many as the largest, and no original is changed.
        keep: the epoch that is kept: lowest validation ``loss``, highest ``accuracy`` or
            ``macro_f1``, or the ``last``.
        patience: stop after so many epochs without a better one; ``None`` for never.
        precision: ``fp32``; ``bf16`` or ``fp16`` for automatic mixed precision.
        channels_last: memory layout of images and convolutions.
        accumulate: a step's batch goes through the network in so many pieces.
        deterministic: only algorithms that give the same result each time.
        validation: share of the crops held out for choosing the epoch and for the operating point,
            whole patients where they are known.
        test: share held out from everything, for ``fertiray evaluate``.
        frame: ``head``: every image shows one head, which is turned into its own frame first
            (axis vertical, acrosome up). Crops of a segmented store are in that frame already.
        views: wherever probabilities are made, average them over ``one`` view, over the crop and
            its mirror image (``flip``), over both turned by -8, 0 and 8 degrees (``swing``), or
            over the eight turns and mirrors of a square (``dihedral``).
        threshold: a crop is positive when its probability is at least this; never tuned on test.
        task: of a set with several grades, the one that a single-task network learns.
        initial: checkpoint folder whose weights are started from, where they fit.
        teacher: checkpoint folder of the teacher for ``loss.distil``.
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
    schedule: Literal["constant", "onecycle", "cosine", "plateau"] = "constant"
    weight_decay: float = 0.0
    loss: Loss = field(default_factory=Loss)
    clip: float | None = None
    ema: float = 0.0
    freeze_batchnorm: bool = False
    frozen: tuple[str, ...] = ()
    freeze_epochs: int = 0
    freeze_lr: float | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    parity: bool = False
    keep: Literal["loss", "accuracy", "macro_f1", "last"] = "loss"
    patience: int | None = None
    precision: Precision = "fp32"
    channels_last: bool = False
    accumulate: int = 1
    deterministic: bool = True
    validation: float = 0.2
    test: float = 0.0
    frame: Literal["as_is", "head"] = "as_is"
    views: Views = "one"
    threshold: float = 0.5
    task: str | None = None
    initial: str | None = None
    teacher: str | None = None
    seed: int = 0
    model_args: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.accumulate) < 1:
            raise ValueError("epochs, batch_size and accumulate must be at least 1")
        if self.accumulate > self.batch_size:
            raise ValueError("accumulate must be at most batch_size")
        for name in ("lr", "head_lr", "freeze_lr"):
            rate = getattr(self, name)
            if rate is not None and not 0 < rate < float("inf"):
                raise ValueError(f"{name} must be positive, got {rate}")
        if self.weight_decay < 0 or (self.clip is not None and self.clip <= 0):
            raise ValueError("weight_decay must be 0 or more and clip positive")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in [0, 2^32), got {self.seed}")
        if not 0 < self.validation <= 0.5 or not 0 <= self.test <= 0.5:
            raise ValueError("validation must be in (0, 0.5] and test in [0, 0.5]")
        if not 0 <= self.ema < 1:
            raise ValueError("ema must be in [0, 1)")
        if not 0 <= self.freeze_epochs <= self.epochs:
            raise ValueError("freeze_epochs must be from 0 to epochs")
        if self.patience is not None and self.patience < 1:
            raise ValueError("patience must be at least 1")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], got {self.threshold}")
        if self.keep == "last" and self.patience is not None:
            raise ValueError("patience must be left out where keep is last")
        if self.parity and self.augmentation.mixup:
            raise ValueError("parity must go without augmentation.mixup: originals stay unchanged")
