"""Embryo viability on the Hung Vuong set, with a multi-scale residual attention network.

The paper's protocol: 640 / 80 / 81 images after quality control, focal loss times class-weighted
cross-entropy with the weights it prints, AdamW at 1e-4, halved on a plateau, batch 16, 50 epochs;
only the good class of the training part is augmented, up to parity; the epoch with the lowest
validation loss. Left open and settled here: ImageNet's mean and deviation for the input.

``resnet50_tuned`` is this project's own: a pretrained ResNet-50 whose first two stages and
BatchNorm statistics are kept, with free rotation, since an embryo has no upright.

Grids: ``ablation`` (A1 to A4 and the proposed network), ``baselines``, and ``stages``: one to four
stages, which the paper leaves to future work; the fourth is 512 channels wide.
"""

from dataclasses import replace

from fertiray.models.preprocess import Preprocessing
from fertiray.papers.paper import Paper
from fertiray.training.config import Augmentation, Loss, TrainConfig
from fertiray.tuning.cells import Between, Cell, Grid, OneOf, Space

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


def _cell(name: str, model: str) -> Cell:
    return Cell(name, model, reported=f"embryo_msres/test/{model}")


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
    grids={
        "ablation": Grid(
            "convolution blocks per stage, Table 3",
            (
                *(_cell(f"A{i}", f"msres_a{i}") for i in range(1, 5)),
                _cell("proposed", "msres"),
            ),
        ),
        "baselines": Grid(
            "other networks under the same protocol, Table 4",
            tuple(
                _cell(name, name)
                for name in ("efficientnet_b0", "densenet121", "resnet50", "msres")
            ),
        ),
        "stages": Grid(
            "stages of MS-Res, which Section 3.2 leaves to future work",
            tuple(
                Cell(
                    f"{len(blocks)} stage{'s' if len(blocks) > 1 else ''}",
                    "msres",
                    (f"model_args.repetitions={[*blocks]}",),
                    "embryo_msres/test/msres" if len(blocks) == 3 else None,
                )
                for blocks in ((3,), (3, 2), (3, 2, 2), (3, 2, 2, 2))
            ),
            efficiency=True,
        ),
    },
    spaces={
        "msres": Space(
            "optimiser, loss and augmentation of MS-Res",
            "msres",
            {
                "lr": Between(1e-5, 1e-2, log=True),
                "weight_decay": Between(1e-6, 1e-1, log=True),
                "batch_size": OneOf((8, 16, 32)),
                "loss.gamma": Between(0.0, 4.0),
                "augmentation.rotation": OneOf((0, 15, 180)),
                "parity": OneOf((True, False)),
            },
        ),
        "resnet50": Space(
            "fine-tuning of the pretrained ResNet-50",
            "resnet50_tuned",
            {
                "lr": Between(1e-5, 1e-3, log=True),
                "head_lr": Between(1e-4, 1e-2, log=True),
                "weight_decay": Between(1e-4, 0.3, log=True),
                "loss.label_smoothing": Between(0.0, 0.2),
                "augmentation.mixup": OneOf((0.0, 0.2, 0.4)),
            },
            grace=3,
        ),
    },
)
