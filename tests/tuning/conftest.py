"""A small labelled set, and a paper whose grids and spaces are tiny."""

import dataclasses
from pathlib import Path

import pytest

from fertiray.data.synthetic import synth_crops
from fertiray.papers import PAPERS
from fertiray.papers.paper import Paper
from fertiray.tuning.cells import Between, Cell, Grid, OneOf, Space

QUICK = ("epochs=2", "batch_size=8", "preprocessing.size=16")
# BatchNorm of a single pixel of a single image: an error of torch, not of the user's.
CRASH = ("model=msres", 'model_args={"width":0.1}', "batch_size=1", "preprocessing.size=8")


@pytest.fixture(scope="session")
def heads(tmp_path_factory) -> str:
    """Heads of six synthetic men, bound and unbound."""
    folder = tmp_path_factory.mktemp("heads") / "data"
    synth_crops(Path(folder), patients=6, crops=10, seed=11, fractions=0.5)
    return str(folder)


@pytest.fixture(scope="session")
def paper() -> Paper:
    """The paper of the zona pellucida with a study that takes seconds."""
    return dataclasses.replace(
        PAPERS["zona_vgg13"],
        grids={
            "rates": Grid(
                "learning rates",
                (
                    Cell("slow", "basic_cnn", ("lr=0.001",), "zona_vgg13/test/basic_cnn"),
                    Cell("fast", "basic_cnn", ("lr=0.01",)),
                ),
                sweep="lr",
                efficiency=True,
                metric="accuracy",
            ),
            "other": Grid(
                "shares a cell with the first",
                (
                    Cell("the same", "basic_cnn", ("lr=0.01",)),
                    Cell("smoothed", "basic_cnn", ("lr=0.01", "loss.label_smoothing=0.1")),
                ),
            ),
            "broken": Grid(
                "one cell that diverges, one that is wrong, one that crashes",
                (
                    Cell("sound", "basic_cnn"),
                    Cell("diverges", "basic_cnn", ("lr=1e30",)),
                    Cell("wrong", "basic_cnn", ("model_args.depth=3",)),
                    Cell("crashes", "basic_cnn", CRASH),
                ),
            ),
        },
        spaces={
            "toy": Space(
                "a toy",
                "basic_cnn",
                {"lr": Between(1e-4, 1e-1, log=True), "batch_size": OneOf((4, 8))},
                grace=1,
            )
        },
    )
