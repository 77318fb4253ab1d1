"""Gardner grading of day-5 blastocysts: three grades from one embedding.

Expansion (3 classes), inner cell mass and trophectoderm (A, B) are learned together; an image that
carries only some of the grades is used for those. Left open by the paper and settled here: AdamW at
1e-4 (1e-3 behind the backbone) with a cosine over 100 epochs, batch 32, flips and small rotations.
``memebg_single`` is the single-task twin; ``--set task=EXP`` (or ICM, TE) chooses its grade.
Grid ``tasks`` tests one against the other on the same folds.
"""

from dataclasses import replace

from fertiray.models.preprocess import Preprocessing
from fertiray.papers.paper import Paper
from fertiray.training.config import Augmentation, TrainConfig
from fertiray.tuning.cells import Between, Cell, Grid, OneOf, Space

MEMEBG = TrainConfig(
    model="memebg",
    preprocessing=Preprocessing(size=224),
    epochs=100,
    batch_size=32,
    optimizer="adamw",
    lr=1e-4,
    head_lr=1e-3,
    weight_decay=0.01,
    schedule="cosine",
    clip=1.0,
    augmentation=Augmentation(rotation=15, scale=0.1, shift=0.05, hflip=True, vflip=True),
    validation=0.25,
)

BLASTOCYST_MEMEBG = Paper(
    name="blastocyst_memebg",
    citation="Multitasking embedding for embryo blastocyst grading prediction (MEmEBG).",
    task="grading",
    known={"EXP": ("0", "1", "2"), "ICM": ("A", "B"), "TE": ("A", "B")},
    positive=("2",),
    models={
        "memebg": MEMEBG,
        "memebg_single": replace(MEMEBG, model="memebg_single", task="EXP"),
    },
    grids={
        "tasks": Grid(
            "one network for all grades against one for each, Tables II to IV",
            (
                Cell("multi-task", "memebg", reported="blastocyst_memebg/test/multi"),
                *(
                    Cell(
                        f"single-task {task}",
                        "memebg_single",
                        (f"task={task}",),
                        None if task == "ICM" else f"blastocyst_memebg/test/single/{task}",
                    )
                    for task in ("EXP", "ICM", "TE")
                ),
            ),
        )
    },
    spaces={
        "memebg": Space(
            "optimiser and augmentation of the multi-task network",
            "memebg",
            {
                "lr": Between(1e-6, 1e-3, log=True),
                "head_lr": Between(1e-4, 1e-2, log=True),
                "weight_decay": Between(1e-5, 0.3, log=True),
                "batch_size": OneOf((16, 32, 64)),
                "augmentation.rotation": OneOf((0, 15, 180)),
                "loss.label_smoothing": Between(0.0, 0.2),
            },
            grace=10,
        )
    },
)
