"""Spermatozoa that can bind the zona pellucida, and a man's percentage of them.

The paper's protocol: VGG13 with frozen ImageNet features and a three-layer classifier, SGD at 1e-3,
batch 4, 50 epochs, cross-entropy, horizontal flip and random resizing of grey 128 x 128 crops;
baselines ResNet-34 (fine-tuned) and a small CNN (two convolutions, one max-pool; batch 6, 0.01).
Left open and settled here: momentum 0.9, a resize of up to 10% either way, and for the small CNN
small rotations, shifts and changes of contrast: the errors that segmentation and staining make.

Grids: ``lr`` (1e-4 to 1e-1), ``networks``, and ``basic_lr``, the first for the small CNN. With
``--held-out`` each network is also shown other unbound heads: how many does it call bound?
"""

from dataclasses import replace

from fertiray.models.preprocess import Preprocessing
from fertiray.papers.paper import Paper
from fertiray.training.config import Augmentation, TrainConfig
from fertiray.tuning.cells import Between, Cell, Grid, OneOf, Space

VGG13 = TrainConfig(
    model="vgg13",
    # ImageNet's mean and deviation, averaged over the colours.
    preprocessing=Preprocessing(size=128, colour="grey", mean=(0.449,), std=(0.226,)),
    epochs=50,
    batch_size=4,
    optimizer="sgd",
    lr=0.001,
    augmentation=Augmentation(scale=0.1, hflip=True),
    validation=0.25,
)

BASIC_CNN = TrainConfig(
    model="basic_cnn",
    # The paper's crops hold little beside the head: 1.4 of the crop store's 2 head lengths.
    preprocessing=Preprocessing(size=128, colour="grey", window=0.7, mean=(0.5,), std=(0.25,)),
    epochs=50,
    batch_size=6,
    optimizer="sgd",
    lr=0.01,
    augmentation=Augmentation(
        rotation=8, scale=0.1, shift=0.03, hflip=True, gain=0.2, offset=0.2, noise=0.05
    ),
)


def _rates(model: str) -> Grid:
    return Grid(
        f"learning rate of {model}",
        tuple(
            Cell(f"lr {rate}", model, (f"lr={rate}",)) for rate in ("1e-4", "1e-3", "1e-2", "1e-1")
        ),
        sweep="lr",
        metric="accuracy",
    )


ZONA_VGG13 = Paper(
    name="zona_vgg13",
    citation=(
        "Leung ETY, Mei X, Lee BKM, Lam KKW, Lee CL, Li RHW, Ng EHY, Yeung WSB, Yu L, Chiu PCN."
        " Automatic identification of human spermatozoa with zona pellucida-binding capability"
        " using deep learning."
    ),
    task="zona",
    known={"class": ("unbound", "bound")},
    positive=("bound",),
    models={
        "vgg13": VGG13,
        "resnet34": replace(VGG13, model="resnet34"),
        "basic_cnn": BASIC_CNN,
    },
    grids={
        "lr": _rates("vgg13"),
        "basic_lr": _rates("basic_cnn"),
        "networks": Grid(
            "VGG13, ResNet-34 and a small CNN, Supplementary Figures S5 to S8",
            tuple(
                Cell(name, name, reported=f"zona_vgg13/test/{name}")
                for name in ("vgg13", "resnet34", "basic_cnn")
            ),
            metric="accuracy",
        ),
    },
    spaces={
        name: Space(
            f"rate, batch and augmentation of {name}",
            name,
            {
                "lr": Between(1e-4, 1e-1, log=True),
                "batch_size": OneOf((4, 8, 16)),
                "weight_decay": Between(1e-6, 1e-2, log=True),
                "augmentation.rotation": OneOf((0, 8, 15)),
                "augmentation.gain": Between(0.0, 0.4),
            },
        )
        for name in ("vgg13", "basic_cnn")
    },
)
