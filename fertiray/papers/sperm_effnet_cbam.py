"""Sperm morphology on HuSHeM and SMIDS.

The network for heads in their own frame (axis vertical, acrosome up, see
:mod:`fertiray.data.alignment`) and in stain density instead of colour, so that a network trained on
one stain can look at another. A pretrained backbone with frozen BatchNorm statistics, because those
of a small batch are the trap with two hundred images.
"""

from fertiray.models.preprocess import Preprocessing
from fertiray.papers.paper import Paper
from fertiray.training.config import Augmentation, TrainConfig

LITE0 = TrainConfig(
    model="efficientnet_lite0",
    preprocessing=Preprocessing(size=128, colour="density", mean=(0.5,), std=(0.5,)),
    epochs=24,
    batch_size=16,
    optimizer="adamw",
    lr=3e-4,
    head_lr=3e-3,
    schedule="onecycle",
    weight_decay=0.05,
    label_smoothing=0.1,
    clip=1.0,
    ema=0.98,
    freeze_batchnorm=True,
    augmentation=Augmentation(
        rotation=15, scale=0.1, shift=0.04, hflip=True, gain=0.3, offset=0.2, noise=0.05, mixup=0.2
    ),
)

SPERM_EFFNET_CBAM = Paper(
    name="sperm_effnet_cbam",
    citation="Interpretable sperm morphology classification via attention-guided deep learning.",
    task="morphology",
    classes=(
        "Normal",
        "Tapered",
        "Pyriform",
        "Amorphous",
        "Normal_Sperm",
        "Abnormal_Sperm",
        "Non-Sperm",
    ),
    positive=("Normal", "Normal_Sperm"),
    models={"efficientnet_lite0": LITE0},
)
