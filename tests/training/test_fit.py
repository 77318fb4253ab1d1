"""The loop learns, is deterministic, keeps its best epoch and holds whole patients out."""

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fertiray import checkpoint
from fertiray.data.labelled import LabelledCrops, load_labelled
from fertiray.errors import InputError
from fertiray.models.preprocess import Preprocessing
from fertiray.papers import PAPERS
from fertiray.training.config import Augmentation, TrainConfig
from fertiray.training.fit import fit
from fertiray.training.train import train

TINY = TrainConfig(
    model="basic_cnn",
    preprocessing=Preprocessing(32, "grey", mean=(0.5,), std=(0.25,)),
    epochs=4,
    batch_size=8,
    optimizer="sgd",
    lr=0.02,
    augmentation=Augmentation(rotation=10, hflip=True, noise=0.05),
    seed=1,
)


def blob(size: int, rng: np.random.Generator) -> np.ndarray:
    """A dark disc whose radius tells its class."""
    image = rng.integers(180, 220, (32, 32, 3)).astype(np.uint8)
    cv2.circle(image, (16, 16), size, (60, 60, 60), -1)
    return image


@pytest.fixture(scope="module")
def crops() -> LabelledCrops:
    rng = np.random.default_rng(0)
    labels = np.array([0, 1] * 60)
    images = np.stack([blob(5 + 5 * label, rng) for label in labels])
    return LabelledCrops(
        images=images,
        labels=labels,
        classes=("unbound", "bound"),
        patients=tuple(f"P{i // 6}" for i in range(120)),
        digests=tuple(str(i) for i in range(120)),
        rejected=(),
        conflicts=(),
    )


def test_learns_and_is_deterministic(crops):
    first = fit(TINY, crops)
    assert first.best.validation_accuracy == 1.0
    assert first.history[-1].training_loss < first.history[0].training_loss
    again = fit(TINY, crops)
    assert again.history == first.history
    assert np.array_equal(again.probabilities, first.probabilities)
    assert fit(dataclasses.replace(TINY, seed=2), crops).history != first.history


def test_best_epoch_is_the_lowest_validation_loss_and_is_kept(crops):
    fitted = fit(dataclasses.replace(TINY, epochs=5, lr=0.08), crops)
    assert fitted.best == min(fitted.history, key=lambda epoch: epoch.validation_loss)
    truth = crops.labels[fitted.validation]
    own = fitted.probabilities[np.arange(len(truth)), truth]
    assert float(-np.log(own).mean()) == pytest.approx(fitted.best.validation_loss, rel=1e-5)


def test_whole_patients_are_held_out(crops):
    held = {crops.patients[i] for i in fit(dataclasses.replace(TINY, epochs=1), crops).validation}
    kept = set(crops.patients) - held
    assert held
    assert kept
    assert all(
        (crops.patients[i] in held)
        == (i in fit(dataclasses.replace(TINY, epochs=1), crops).validation)
        for i in (0, 119)
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adamw", "lr": 1e-3, "schedule": "onecycle", "clip": 1.0},
        {"ema": 0.9, "label_smoothing": 0.1, "class_weights": True},
        {"augmentation": Augmentation(mixup=0.2), "head_lr": 0.05},
    ],
)
def test_every_option_still_learns(crops, changes):
    fitted = fit(dataclasses.replace(TINY, epochs=6, **changes), crops)
    assert fitted.best.validation_accuracy >= 0.9


def test_frozen_batchnorm_keeps_its_statistics(crops):
    config = TrainConfig(
        model="efficientnet_lite0",
        preprocessing=Preprocessing(32, "density", mean=(0.5,), std=(0.5,)),
        epochs=1,
        batch_size=16,
        optimizer="adamw",
        lr=1e-3,
        freeze_batchnorm=True,
        model_args={"pretrained": False},
    )
    state = fit(config, crops).model.state_dict()
    assert all((state[key] == 0).all() for key in state if key.endswith("running_mean"))
    moved = fit(dataclasses.replace(config, freeze_batchnorm=False), crops).model.state_dict()
    assert any((moved[key] != 0).any() for key in moved if key.endswith("running_mean"))


@pytest.mark.parametrize(
    "changes",
    [{"epochs": 0}, {"lr": 0.0}, {"lr": float("nan")}, {"validation": 0.9}, {"ema": 1.0}],
)
def test_nonsense_is_refused(changes):
    with pytest.raises(ValueError, match="must be"):
        dataclasses.replace(TINY, **changes)


def write_folder(folder: Path, table: bool) -> None:
    rng = np.random.default_rng(0)
    rows = ["image,label,patient_id"]
    for i in range(40):
        label = ("unbound", "bound")[i % 2]
        place = Path(f"P{i // 4}") / f"{i}.png" if table else Path(label) / f"{i}.png"
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / place), blob(5 + 5 * (i % 2), rng))
        rows.append(f"{place.as_posix()},{label},P{i // 4}")
    if table:
        (folder / "labels.csv").write_text("\n".join(rows))


@pytest.mark.parametrize("table", [True, False])
def test_train_writes_a_checkpoint_that_scores_the_same(tmp_path, table):
    data, out = tmp_path / "data", tmp_path / "ckpt"
    write_folder(data, table)
    result = train(PAPERS["zona_vgg13"], TINY, str(data), str(out))
    assert result["n"] == {"training": 32, "validation": 8, "rejected": 0, "conflicting": 0}
    model, meta = checkpoint.load(str(out))
    assert meta.classes == ("unbound", "bound")  # FACTS: unbound 0, bound 1
    assert meta.operating.n_positive + meta.operating.n_negative == 8
    assert meta.metrics["accuracy"] == result["metrics"]["accuracy"] == 1.0
    assert isinstance(model, torch.nn.Module)
    json.dumps(result)


def test_unusable_data_is_refused(tmp_path):
    recipe = TINY
    with pytest.raises(InputError, match="no such folder"):
        train(PAPERS["zona_vgg13"], recipe, str(tmp_path / "x"), str(tmp_path / "c"))
    (tmp_path / "one" / "bound").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "one/bound/a.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(InputError, match="two or more classes, found \\['bound'\\]"):
        train(PAPERS["zona_vgg13"], recipe, str(tmp_path / "one"), str(tmp_path / "c"))
    (tmp_path / "one" / "banana").mkdir()
    cv2.imwrite(str(tmp_path / "one/banana/b.png"), np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(InputError, match="unknown class 'banana'"):
        train(PAPERS["zona_vgg13"], recipe, str(tmp_path / "one"), str(tmp_path / "c"))
    (tmp_path / "one" / "labels.csv").write_text("file,klass\n")
    with pytest.raises(InputError, match="needs the columns image and label"):
        train(PAPERS["zona_vgg13"], recipe, str(tmp_path / "one"), str(tmp_path / "c"))


def test_contradicting_and_corrupt_images_are_left_out_and_listed(tmp_path):
    write_folder(tmp_path, table=False)
    twin = cv2.imread(str(tmp_path / "bound/1.png"))
    cv2.imwrite(str(tmp_path / "unbound/twin.png"), twin)  # the same pixels, the other label
    (tmp_path / "bound" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    loaded = load_labelled(str(tmp_path), TINY.preprocessing, ("unbound", "bound"))
    assert {Path(place).name for place in loaded.conflicts} == {"1.png", "twin.png"}
    assert [Path(place).name for place, _ in loaded.rejected] == ["broken.png"]
    assert len(loaded.labels) == 39
