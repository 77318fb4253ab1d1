"""Sperm morphology on HuSHeM and SMIDS, with EfficientNet-B0 and CBAM.

The paper's protocol: 70 / 15 / 15, batch 32, 100 epochs, AdamW with a cosine; the classification
layer alone first, then everything at a lower rate; flips, rotation, colour jitter, affine; MixUp
and label smoothing. Its five rows are five recipes, each the one before with one thing more:
``simple_cnn``, ``efficientnet_b0``, ``cbam``, ``cbam_freeze`` and ``effnet_cbam``. Left open and
settled here: 20 epochs of the classification layer at 1e-3, then 1e-4; MixUp 0.2, smoothing 0.1.

Where only EfficientNet-Lite0's weights are at hand:
``--set model_args.backbone=tf_efficientnet_lite0`` for the rows with CBAM, and ``lite0_plain`` for
the one without. Grids ``hushem`` and ``smids`` are the five rows on either set,
``hushem_lite0`` and ``smids_lite0`` the same on that backbone.

``efficientnet_lite0`` is this project's own: heads in their own frame (axis vertical, acrosome up)
and in stain density instead of colour, so that a network trained on one stain can look at another,
and BatchNorm statistics kept, because those of a small batch are the trap with two hundred images.
"""

from dataclasses import replace

from fertiray.models.preprocess import Preprocessing
from fertiray.papers.paper import Paper
from fertiray.training.config import Augmentation, Loss, TrainConfig
from fertiray.tuning.cells import Between, Cell, Grid, OneOf, Space

CLASSES = (
    *("Normal", "Tapered", "Pyriform", "Amorphous"),  # HuSHeM
    *("Normal_Sperm", "Abnormal_Sperm", "Non-Sperm"),  # SMIDS
)
POSITIVE = ("Normal", "Normal_Sperm")

AUGMENTED = Augmentation(
    rotation=20, scale=0.1, shift=0.05, shear=5, hflip=True, vflip=True,
    gain=0.2, offset=0.2, saturation=0.2, hue=0.02,
)  # fmt: skip

CBAM = TrainConfig(
    model="effnet_cbam",
    preprocessing=Preprocessing(size=224),
    epochs=100,
    batch_size=32,
    optimizer="adamw",
    lr=1e-4,
    head_lr=1e-3,
    weight_decay=0.01,
    schedule="cosine",
    augmentation=AUGMENTED,
    validation=0.15,
    test=0.15,
)
FREEZE = replace(CBAM, freeze_epochs=20, head_lr=1e-4, freeze_lr=1e-3)
FULL = replace(FREEZE, augmentation=replace(AUGMENTED, mixup=0.2), loss=Loss(label_smoothing=0.1))

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
    loss=Loss(label_smoothing=0.1),
    clip=1.0,
    ema=0.98,
    freeze_batchnorm=True,
    augmentation=Augmentation(
        rotation=15, scale=0.1, shift=0.04, hflip=True, gain=0.3, offset=0.2, noise=0.05, mixup=0.2
    ),
)

STEPS = {
    "SimpleCNN": ("simple_cnn", "simple_cnn"),
    "+ EfficientNet-B0": ("efficientnet_b0", "efficientnet_b0"),
    "+ CBAM": ("cbam", "cbam"),
    "+ freeze, unfreeze": ("cbam_freeze", "freeze"),
    "+ MixUp, smoothing": ("effnet_cbam", "full"),
}  # recipe and the paper's row


def _steps(table: str, backbone: str | None = None) -> Grid:
    """Tables 1 and 3: each row adds to the one before."""
    cells = []
    for name, (model, row) in STEPS.items():
        settings: tuple[str, ...] = ()
        if backbone is not None and model == "efficientnet_b0":
            name, model = "+ EfficientNet-Lite0", "lite0_plain"
        elif backbone is not None and model != "simple_cnn":
            settings = (f"model_args.backbone={backbone}",)
        cells.append(Cell(name, model, settings, f"sperm_effnet_cbam/{table}/{row}"))
    return Grid(f"from SimpleCNN to the whole, each with one thing more, {table}", tuple(cells))


SPERM_EFFNET_CBAM = Paper(
    name="sperm_effnet_cbam",
    citation="Interpretable sperm morphology classification via attention-guided deep learning.",
    task="morphology",
    known={"class": CLASSES},
    positive=POSITIVE,
    models={
        "effnet_cbam": FULL,
        "cbam_freeze": FREEZE,
        "cbam": CBAM,
        "efficientnet_b0": replace(CBAM, model="efficientnet_b0"),
        "lite0_plain": replace(CBAM, model="efficientnet_lite0"),
        "simple_cnn": replace(CBAM, model="simple_cnn", lr=1e-3),
        "efficientnet_lite0": LITE0,
    },
    grids={
        "hushem": _steps("hushem"),
        "smids": _steps("smids"),
        "hushem_lite0": _steps("hushem", "tf_efficientnet_lite0"),
        "smids_lite0": _steps("smids", "tf_efficientnet_lite0"),
    },
    spaces={
        "effnet_cbam": Space(
            "rates, freezing and regularisation of the whole configuration",
            "effnet_cbam",
            {
                "lr": Between(1e-5, 1e-3, log=True),
                "freeze_lr": Between(1e-4, 1e-2, log=True),
                "freeze_epochs": OneOf((0, 5, 10, 20)),
                "weight_decay": Between(1e-4, 0.3, log=True),
                "augmentation.mixup": OneOf((0.0, 0.2, 0.4)),
                "loss.label_smoothing": Between(0.0, 0.2),
            },
            grace=25,
        ),
        "lite0": Space(
            "this project's own recipe on heads in their own frame",
            "efficientnet_lite0",
            {
                "lr": Between(3e-5, 3e-3, log=True),
                "head_lr": Between(3e-4, 3e-2, log=True),
                "ema": OneOf((0.0, 0.95, 0.98, 0.99)),
                "augmentation.mixup": OneOf((0.0, 0.2, 0.4)),
                "augmentation.rotation": OneOf((5, 15, 30)),
            },
        ),
    },
)
