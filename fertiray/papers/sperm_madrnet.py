"""Sperm morphology on HuSHeM and SMIDS, with the morphology-aware dual-path reversible network.

The paper's protocol: 512 x 512, 5 folds split before augmentation, 400 epochs, batch 64, AdamW,
OneCycleLR to 3e-4 (backbone) and 1e-3 (the rest), clip 1.0, horizontal flip and +-20 degrees;
cross-entropy + triplet + head-aspect-ratio term, with learned weights from 0.4 and 0.3. The last
two are used as they train: cosine distance, positive weights with a penalty, and the ratio's
penalty times the probability of Normal; ``--set loss.harc=paper --set loss.weights=paper`` is the
text as written. Left open and settled here: triplet margin 0.3, weight decay 0.01.

``madrnet_eb0`` is the small one, and ``madrnet_eb0_distilled`` the paper's future work: the same,
learning from a trained MADRNet (``--set teacher=CHECKPOINT``). ``resnet50_frame`` is this project's
own: a plain ResNet-50 on heads in their own frame, ``madrnet_frame`` MADRNet in the same, and
``resnet50_patch`` the ResNet-50 on whole patches in any direction, with its first two stages kept
as they are.

Grids: ``modules`` (Table IV), ``constraints`` (Table V), ``passes`` (n = 0 to 6), ``backbone`` and
``harc`` (the head-aspect-ratio term as written, and as it trains).
"""

from dataclasses import replace

from fertiray.models.preprocess import Preprocessing
from fertiray.papers.paper import Paper
from fertiray.papers.sperm_effnet_cbam import CLASSES, POSITIVE
from fertiray.training.config import Augmentation, Loss, TrainConfig
from fertiray.tuning.cells import Between, Cell, Grid, OneOf, Space

HYBRID = Loss(triplet=0.4, margin=0.3, harc="effective", harc_weight=0.3, weights="bounded")

MADRNET = TrainConfig(
    model="madrnet",
    preprocessing=Preprocessing(size=512),
    epochs=400,
    batch_size=64,
    optimizer="adamw",
    lr=3e-4,
    head_lr=1e-3,
    weight_decay=0.01,
    schedule="onecycle",
    loss=HYBRID,
    clip=1.0,
    augmentation=Augmentation(rotation=20, hflip=True),
)

FRAMED = TrainConfig(
    model="resnet50",
    preprocessing=Preprocessing(size=144, window=0.72),
    epochs=24,
    batch_size=16,
    optimizer="adamw",
    lr=1e-4,
    head_lr=1e-3,
    weight_decay=0.05,
    schedule="onecycle",
    loss=Loss(label_smoothing=0.1),
    clip=1.0,
    ema=0.98,
    freeze_batchnorm=True,
    augmentation=Augmentation(
        rotation=15, scale=0.1, shift=0.04, hflip=True, gain=0.3, offset=0.2, mixup=0.2
    ),
    keep="last",
    precision="bf16",
    channels_last=True,
    frame="head",
    views="swing",
)

PATCH = replace(
    FRAMED,
    preprocessing=Preprocessing(size=144),
    epochs=6,
    frozen=("conv1", "bn1", "layer1", "layer2"),
    augmentation=replace(FRAMED.augmentation, rotation=180),
    frame="as_is",
    views="dihedral",
)

# MADRNet in that frame, at a size and for as long as processors can; its hybrid loss is taken
# without MixUp and label smoothing.
MADRNET_FRAMED = replace(
    FRAMED,
    model="madrnet",
    loss=HYBRID,
    augmentation=replace(FRAMED.augmentation, mixup=0.0),
)

EB0 = replace(MADRNET, model="madrnet_eb0")

CROSS_ENTROPY = ("loss.triplet=0", "loss.harc=none", "loss.weights=fixed")
NO_AAC, NO_HARC = "model_args.acrosome=false", "loss.harc=none"


def _cell(name: str, row: str, *settings: str, model: str = "madrnet") -> Cell:
    return Cell(name, model, settings, f"sperm_madrnet/{row}")


GRIDS = {
    "modules": Grid(
        "each module added to the one before, Table IV",
        (
            _cell("ResNet-50", "modules/resnet50", model="resnet50"),
            _cell(
                "+ reversible",
                "modules/reversible",
                *("model_args.bilinear=false", *CROSS_ENTROPY),
            ),
            _cell("+ bilinear pooling", "modules/bilinear", *CROSS_ENTROPY),
            _cell("+ hybrid loss", "modules/hybrid_loss"),
        ),
    ),
    "constraints": Grid(
        "acrosome (AAC) and head aspect ratio (HARC), Table V",
        (
            _cell("neither", "constraints/none", NO_AAC, NO_HARC),
            _cell("AAC", "constraints/acrosome", NO_HARC),
            _cell("HARC", "constraints/aspect_ratio", NO_AAC),
            _cell("AAC and HARC", "constraints/both"),
        ),
    ),
    "passes": Grid(
        "passes of the reversible sequence: accuracy, memory and latency, Fig. 10",
        tuple(
            Cell(
                *(f"n = {n}", "madrnet", (f"model_args.n={n}",)),
                reported="sperm_madrnet/hushem/madrnet" if n == 3 else None,
            )
            for n in range(7)
        ),
        sweep="model_args.n",
        efficiency=True,
    ),
    "backbone": Grid(
        "ResNet-50 against EfficientNet-B0, Section IV-F",
        (
            _cell("ResNet-50", "hushem/madrnet"),
            _cell("EfficientNet-B0", "hushem/madrnet_eb0", model="madrnet_eb0"),
        ),
        efficiency=True,
    ),
    "harc": Grid(
        "the head-aspect-ratio term: none, as Eq. 14 has it, and with a gradient",
        tuple(
            Cell(f"HARC {name}", "madrnet", (f"loss.harc={name}",))
            for name in ("none", "paper", "effective")
        ),
    ),
}

SPERM_MADRNET = Paper(
    name="sperm_madrnet",
    citation=(
        "Yang, Sun, Huang, Zhang, Zhang. MADRNet: morphology-aware dual-path reversible network."
    ),
    task="morphology",
    known={"class": CLASSES},
    positive=POSITIVE,
    models={
        "madrnet": MADRNET,
        "madrnet_eb0": EB0,
        "madrnet_eb0_distilled": replace(EB0, loss=replace(HYBRID, distil=0.7)),
        "resnet50": replace(MADRNET, model="resnet50", loss=Loss()),
        "resnet50_frame": FRAMED,
        "madrnet_frame": MADRNET_FRAMED,
        "resnet50_patch": PATCH,
    },
    grids=GRIDS,
    spaces={
        "madrnet": Space(
            "rates and the hybrid loss",
            "madrnet",
            {
                "lr": Between(3e-5, 3e-3, log=True),
                "head_lr": Between(1e-4, 1e-2, log=True),
                "weight_decay": Between(1e-4, 0.3, log=True),
                "loss.triplet": Between(0.05, 0.9),
                "loss.margin": Between(0.1, 0.6),
                "loss.harc_weight": Between(0.05, 0.9),
                "model_args.n": OneOf((1, 2, 3, 4)),
            },
            grace=40,
        ),
        "resnet50_frame": Space(
            "this project's own: a plain ResNet-50 on heads in their own frame",
            "resnet50_frame",
            {
                "lr": Between(1e-5, 1e-3, log=True),
                "head_lr": Between(1e-4, 1e-2, log=True),
                "ema": OneOf((0.0, 0.95, 0.98, 0.99)),
                "augmentation.mixup": OneOf((0.0, 0.2, 0.4)),
                "preprocessing.window": OneOf((0.6, 0.72, 0.85)),
            },
        ),
    },
)
