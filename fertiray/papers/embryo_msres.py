"""Embryo viability on the Hung Vuong set, with a multi-scale residual attention network.

The paper's protocol: 640 / 80 / 81 images after quality control, focal loss times class-weighted
cross-entropy with the weights it prints, AdamW at 1e-4, halved on a plateau, batch 16, 50 epochs;
only the good class of the training part is augmented, up to parity; the epoch with the lowest
validation loss. Left open and settled here: ImageNet's mean and deviation for the input.

``resnet50_tuned`` is this project's own: a pretrained ResNet-50 whose first two stages and
BatchNorm statistics are kept, with free rotation, since an embryo has no upright.
"""

from dataclasses import replace

from fertiray.models.preprocess import Preprocessing
from fertiray.papers.paper import Paper
from fertiray.training.config import Augmentation, Loss, TrainConfig

MSRES = TrainConfig(
    model="msres",
    preprocessing=Preprocessing(size=224),
    epochs=50,
    batch_size=16,
    optimizer="adamw",
    lr=1e-4,
    weight_decay=1e-4,
    schedule="plateau",
    loss=Loss(kind="focal", gamma=2.0, class_weights=(0.822884, 2.5485437)),
    augmentation=Augmentation(gamma=(0.8, 1.5), blur=0.5, hflip=True, vflip=True),
    parity=True,
    validation=0.1,
    test=0.1,
)

TUNED = TrainConfig(
    model="resnet50",
    preprocessing=Preprocessing(size=160),
    epochs=10,
    batch_size=16,
    optimizer="adamw",
    lr=1e-4,
    head_lr=1e-3,
    weight_decay=0.05,
    schedule="onecycle",
    loss=Loss(class_weights=True, label_smoothing=0.1),
    clip=1.0,
    ema=0.98,
    freeze_batchnorm=True,
    frozen=("conv1", "bn1", "layer1", "layer2"),
    augmentation=Augmentation(
        rotation=180, scale=0.1, shift=0.04, hflip=True, gamma=(0.8, 1.5), mixup=0.2
    ),
    keep="last",
    precision="bf16",
    channels_last=True,
    validation=0.1,
    test=0.1,
    views="dihedral",
)

EMBRYO_MSRES = Paper(
    name="embryo_msres",
    citation=(
        "Mahmood, ALJumaili. Explainable embryo viability classification using multi-scale residual"
        " attention networks."
    ),
    task="viability",
    known={"class": ("poor", "good")},
    positive=("good",),
    models={
        "msres": MSRES,
        **{f"msres_a{i}": replace(MSRES, model=f"msres_a{i}") for i in range(1, 5)},
        **{name: replace(MSRES, model=name) for name in ("efficientnet_b0", "densenet121")},
        "resnet50": replace(MSRES, model="resnet50"),
        "resnet50_tuned": TUNED,
    },
)
