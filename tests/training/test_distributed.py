"""Several workers with the same global batch are the same training as one, within rounding.

Two processes talk through gloo, without Ray. Expected values are those of one process.
"""

import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fertiray.data.labelled import LabelledCrops
from fertiray.data.splits import Parts
from fertiray.models.preprocess import Preprocessing
from fertiray.models.registry import build_model
from fertiray.papers import PAPERS
from fertiray.training.config import Augmentation, Loss, TrainConfig
from fertiray.training.fit import fit
from fertiray.training.state import pack, unpack
from fertiray.training.worker import LocalWorker

HUSHEM = ("Normal", "Tapered", "Pyriform", "Amorphous")
# 22 crops are two batches of nine, which two workers share unevenly, and one of four.
CROPS = "crops"
PARTS = Parts(np.arange(22), np.arange(22, 29), np.arange(0))


def tiny(paper: str, model: str | None = None, size: int = 32, **changes) -> TrainConfig:
    """A paper's recipe with plain steps, so that rounding is not blown up by AdamW's division."""
    recipe = PAPERS[paper].config(model)
    settings = {
        "preprocessing": replace(recipe.preprocessing, size=size),
        "epochs": 2,
        "batch_size": 9,
        "optimizer": "sgd",
        "lr": 1e-3,
        "head_lr": None,
        "freeze_lr": None,
        "schedule": "constant",
        "precision": "fp32",
        "keep": "last",
        "model_args": {"pretrained": False},
        **changes,
    }
    return replace(recipe, **settings)


SIMPLE = TrainConfig(
    model="simple_cnn",
    preprocessing=Preprocessing(32),
    epochs=2,
    batch_size=9,
    optimizer="sgd",
    lr=1e-3,
    augmentation=Augmentation(hflip=True, noise=0.05),
)

CASES = {
    "msres": tiny("embryo_msres", model_args={"width": 0.25}),  # dropout, parity, class weights
    "accumulated": replace(SIMPLE, accumulate=3, freeze_batchnorm=True),
    "memebg": tiny("blastocyst_memebg", size=28, epochs=1),  # three grades, some missing
    "head_only": tiny(
        "sperm_effnet_cbam",
        "efficientnet_lite0",
        freeze_epochs=2,
        freeze_batchnorm=False,
        ema=0.0,
        augmentation=Augmentation(),
        model_args={"pretrained": False},
    ),
    "mixed": tiny("sperm_effnet_cbam", "efficientnet_lite0"),  # MixUp, clip, moving average
    # At 32 pixels BatchNorm sees four values in the last batch and blows rounding up: one worker
    # with one thread then differs from itself with two by 0.2% (at 64: 3e-7).
    "frozen_then_all": tiny("sperm_effnet_cbam", "cbam_freeze", size=64, freeze_epochs=1),
    "reversible": tiny(
        "sperm_madrnet",
        "madrnet",
        loss=Loss(),
        model_args={"pretrained": False, "backbone": "resnet18", "n": 2, "bilinear": False},
    ),
    "triplets": replace(
        SIMPLE, loss=Loss(triplet=0.4, harc="effective", harc_weight=0.3, weights="bounded")
    ),
}


def crops_of(name, discs, graded):
    if name == "memebg":
        return graded(29)
    size = CASES[name].preprocessing.size
    return discs(29, ("poor", "good") if name == "msres" else HUSHEM, size)


def begin(folder: Path, size: int) -> None:
    """Starts ``size`` workers over the cases in the folder, and waits for them."""
    command = [sys.executable, __file__, str(folder)]
    workers = [subprocess.Popen([*command, str(rank), str(size)]) for rank in range(size)]
    try:
        assert [worker.wait(300) for worker in workers] == [0] * size
    finally:
        for worker in workers:
            worker.kill()


@pytest.fixture(scope="module")
def runs(tmp_path_factory, discs, graded):
    """Of each case: one worker's and two workers' losses and parameters."""
    folder = tmp_path_factory.mktemp("distributed")
    cases = {name: (config, crops_of(name, discs, graded)) for name, config in CASES.items()}
    data = {name: plain(crops) for name, (_, crops) in cases.items()}
    (folder / CROPS).write_bytes(pack(data))
    alone = {name: run(LocalWorker(), *case) for name, case in cases.items()}
    begin(folder, 2)
    return {
        name: (cases[name], alone[name], unpack((folder / name).read_bytes(), name))
        for name in cases
    }


def plain(crops: LabelledCrops) -> dict[str, Any]:
    """Crops as tensors and plain values, for another process."""
    values = {field.name: getattr(crops, field.name) for field in fields(crops)}
    return {
        name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for name, value in values.items()
    }


def from_plain(values: dict[str, Any]) -> LabelledCrops:
    return LabelledCrops(
        **{
            name: value.numpy() if isinstance(value, torch.Tensor) else value
            for name, value in values.items()
        }
    )


def run(worker, config, crops):
    steps = []
    fitted = fit(config, crops, PARTS, worker, on_step=steps.append)
    return {"steps": steps, "history": fitted.history, "model": fitted.model.state_dict()}


def initial(config, crops):
    torch.manual_seed(config.seed)
    args = dict(config.model_args)
    if len(crops.tasks) > 1:
        args["tasks"] = {task: len(classes) for task, classes in crops.tasks.items()}
    size, channels = config.preprocessing.size, config.preprocessing.channels
    model = build_model(
        config.model, len(crops.classes), in_channels=channels, size=size, args=args
    )
    return model.state_dict()


@pytest.mark.parametrize("name", CASES)
def test_two_workers_train_as_one_does(runs, name):
    (config, crops), one, two = runs[name]
    assert len(one["steps"]) == len(two["steps"]) > 2
    np.testing.assert_allclose(two["steps"][0], one["steps"][0], rtol=2e-6)
    np.testing.assert_allclose(two["steps"], one["steps"], rtol=2e-3)
    for ours, theirs in zip(two["history"], one["history"], strict=True):
        assert ours.keys() == theirs.keys()
        np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=5e-3)
    before = initial(config, crops)
    moved, apart = 0.0, 0.0
    for key, value in one["model"].items():
        if value.is_floating_point():
            moved += (value - before[key]).double().square().sum().item()
            apart += (value - two["model"][key]).double().square().sum().item()
        else:
            assert torch.equal(value, two["model"][key]), key
    assert moved > 0
    # BatchNorm over nine crops of one pixel: weights changed by 6e-8 lead one process 1.4e-2 away.
    assert (apart / moved) ** 0.5 < (3e-2 if name == "frozen_then_all" else 1e-3)


def work(folder: Path, rank: int, size: int) -> None:
    """What one process does."""
    torch.set_num_threads(1)
    init = f"file://{folder}/rendezvous"
    torch.distributed.init_process_group("gloo", init_method=init, rank=rank, world_size=size)
    worker = LocalWorker()
    worker.rank, worker.size = rank, size
    for name, values in unpack((folder / CROPS).read_bytes(), CROPS).items():
        result = run(worker, CASES[name], from_plain(values))
        if rank == 0:
            (folder / name).write_bytes(pack(result))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    work(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
