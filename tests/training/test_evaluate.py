"""A checkpoint is measured on the right images, as it was trained, and says what it has seen."""

import dataclasses
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
from sklearn.metrics import confusion_matrix, f1_score, roc_auc_score

from fertiray import checkpoint
from fertiray.config import override
from fertiray.errors import InputError
from fertiray.models.preprocess import Preprocessing
from fertiray.papers import PAPERS
from fertiray.papers.paper import Paper
from fertiray.training.config import TrainConfig
from fertiray.training.evaluate import evaluate
from fertiray.training.train import train

TINY = TrainConfig(
    model="basic_cnn",
    preprocessing=Preprocessing(32, "grey", mean=(0.5,), std=(0.25,)),
    epochs=2,
    batch_size=8,
    optimizer="sgd",
    lr=0.02,
    validation=0.25,
    test=0.25,
)
CLASSES = ("small", "middle", "large")
TOY = Paper(
    name="toy",
    citation="",
    task="morphology",
    known={"class": CLASSES},
    positive=("small",),
    models={"basic_cnn": TINY},
)


def write(folder: Path, classes: tuple[str, ...], images: int = 60, seed: int = 0) -> str:
    """Class folders of discs whose radius hints at their class."""
    rng = np.random.default_rng(seed)
    for i in range(images):
        label = classes[i % len(classes)]
        image = rng.integers(120, 220, (32, 32, 3)).astype(np.uint8)
        radius = int(rng.integers(4, 6)) + 3 * CLASSES.index(label)
        cv2.circle(image, (16, 16), radius, (60, 60, 60), -1)
        (folder / label).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / label / f"{i:02d}.png"), image)
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return write(tmp_path_factory.mktemp("toy") / "data", CLASSES)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A three-class checkpoint and what its training said."""
    folder = str(tmp_path_factory.mktemp("checkpoint") / "three")
    return folder, train(TOY, TINY, data, folder)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A two-class checkpoint without a test part, and its data."""
    folder = tmp_path_factory.mktemp("two")
    data = write(folder / "data", ("small", "large"), 40)
    settings = dataclasses.replace(TINY, test=0.0, threshold=0.7, views="flip")
    train(TOY, settings, data, str(folder / "checkpoint"))
    return str(folder / "checkpoint"), data


def test_the_test_part_with_the_numbers_of_scikit_learn(trained, data, tmp_path):
    folder, made = trained
    out = str(tmp_path / "predictions.parquet")
    found = evaluate(folder, data, out=out)
    table = pl.read_parquet(out)
    split = json.loads(Path(folder, "split.json").read_text())
    assert found["split"] == "test"
    assert found["n"] == len(table) == made["n"]["test"]
    assert found["seen_in_training"] == 0
    assert found["cautions"] == []
    assert not set(table["name"]) & set(split["names"]["training"])
    p = table.select([f"p_{name}" for name in CLASSES]).to_numpy()
    truth = np.array([CLASSES.index(name) for name in table["truth"]])
    called = p.argmax(1)
    assert [CLASSES[i] for i in called] == table["predicted"].to_list()
    assert found["accuracy"] == pytest.approx((called == truth).mean())
    assert found["macro_f1"] == pytest.approx(f1_score(truth, called, average="macro"))
    assert found["confusion"] == confusion_matrix(truth, called, labels=[0, 1, 2]).tolist()
    own = p.astype(np.float64)
    own /= own.sum(1, keepdims=True)
    assert found["roc_auc"] == pytest.approx(roc_auc_score(truth, own, multi_class="ovr"))
    assert set(found["ci"]) >= {"accuracy", "macro_f1", "roc_auc"}
    # The threshold of the positive class decides what scoring calls, not these labels.
    operating = found["operating"]
    assert operating["threshold"] == 0.5
    assert operating["sensitivity"] == (p[truth == 0, 0] >= 0.5).mean()
    assert operating["specificity"] == (p[truth != 0, 0] < 0.5).mean()
    json.dumps(found, allow_nan=False)


def test_the_validation_part_is_what_the_checkpoint_says(two):
    folder, data = two
    found = evaluate(folder, data)
    assert found["split"] == "validation"
    assert found["cautions"] == ["the validation part chose the epoch: expect less on new images"]
    meta = checkpoint.read_meta(folder)
    for name in ("accuracy", "macro_f1", "roc_auc", "sensitivity", "specificity"):
        assert found[name] == pytest.approx(meta.metrics[name])
    assert found["operating"]["sensitivity"] == found["sensitivity"]
    assert found["threshold"] == 0.7
    assert found["views"] == "flip"
    assert evaluate(folder, data, views="one")["log_loss"] != found["log_loss"]


def test_images_that_were_learned_from_are_counted(trained, data, tmp_path):
    folder, made = trained
    n = made["n"]["training"]
    found = evaluate(folder, data, split="training")
    assert (found["n"], found["seen_in_training"]) == (n, n)
    found = evaluate(folder, data, split="all")
    assert (found["n"], found["seen_in_training"]) == (60, n)
    assert found["cautions"] == [
        f"{n} of 60 images were learned from: these are no results on new images"
    ]
    # Other data that hold five of the training images under other names.
    other = Path(write(tmp_path / "other", CLASSES, 30, seed=1))
    split = json.loads(Path(folder, "split.json").read_text())
    for number, name in enumerate(split["names"]["training"][:5]):
        shutil.copy(Path(data, name), other / Path(name).parent / f"copy{number}.png")
    found = evaluate(folder, str(other))
    assert (found["split"], found["n"], found["seen_in_training"]) == ("all", 35, 5)


def test_data_may_have_fewer_classes_in_another_order(trained, tmp_path):
    """The columns are the checkpoint's, whatever the data call their first class."""
    found = evaluate(trained[0], write(tmp_path / "data", ("large", "middle"), 20, seed=2))
    assert found["classes"] == list(CLASSES)
    assert [row["n"] for row in found["per_class"]] == [0, 10, 10]
    assert found["roc_auc"] is None
    assert found["sensitivity"] is None


def test_what_cannot_be_measured_is_refused(trained, two, data, tmp_path):
    folder, _ = trained
    strange = write(tmp_path / "strange", ("small", "large"), 8)
    Path(strange, "large").rename(Path(strange, "huge"))
    with pytest.raises(InputError, match=r"huge.*small, middle, large"):
        evaluate(folder, strange)
    with pytest.raises(InputError, match="--split half: unknown"):
        evaluate(folder, data, split="half")
    with pytest.raises(InputError, match=r"--split test: that part of .* is empty"):
        evaluate(two[0], two[1], split="test")
    with pytest.raises(InputError, match=r"split\.json"):
        evaluate(folder, write(tmp_path / "other", CLASSES, 30, seed=3), split="test")
    copy = str(tmp_path / "copy")
    shutil.copytree(folder, copy)
    Path(copy, "split.json").unlink()
    with pytest.raises(InputError, match="no test part: give --split all"):
        evaluate(copy, data, split="test")
    found = evaluate(copy, data)
    assert (found["split"], found["n"]) == ("all", 60)


def test_several_tasks(tmp_path):
    """Each task is measured on the images that are graded in it."""
    rng = np.random.default_rng(3)
    folder = tmp_path / "blastocysts"
    folder.mkdir()
    rows = ["image,EXP,ICM,TE"]
    for i in range(24):
        image = rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{i:02d}.png"), image)
        rows.append(f"{i:02d}.png,{i % 3 if i < 21 else ''},{'AB'[i % 2]},{'AB'[i // 3 % 2]}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    paper = PAPERS["blastocyst_memebg"]
    quick = ["epochs=1", "preprocessing.size=28", 'model_args={"pretrained": false}']
    out = str(tmp_path / "checkpoint")
    train(paper, override(paper.config(), quick), str(folder), out)
    found = evaluate(out, str(folder), split="all", out=str(tmp_path / "p.parquet"))
    assert [part["n"] for part in found["tasks"].values()] == [21, 24, 24]
    assert found["confusion"] == found["tasks"]["EXP"]["confusion"]
    table = pl.read_parquet(tmp_path / "p.parquet")
    right = (table["truth_TE"] == table["predicted_TE"]).mean()
    assert found["tasks"]["TE"]["accuracy"] == pytest.approx(right)
    # A table of one grade only is measured for that one.
    lines = [",".join(row.split(",")[:1] + row.split(",")[3:]) for row in rows]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    alone = evaluate(out, str(folder))
    assert list(alone["tasks"]) == ["TE"]
    assert alone["accuracy"] == found["tasks"]["TE"]["accuracy"]
    assert alone["operating"] is None
