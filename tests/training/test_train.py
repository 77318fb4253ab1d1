"""A labelled folder in, a checkpoint that scores the same out; unusable input is refused."""

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fertiray import checkpoint, storage
from fertiray.data.labelled import load_labelled
from fertiray.data.splits import load_split
from fertiray.errors import InputError
from fertiray.models.preprocess import Preprocessing
from fertiray.papers import PAPERS
from fertiray.scoring.scorer import Scorer
from fertiray.studies import recipe, train_paper
from fertiray.training.config import Augmentation, TrainConfig
from fertiray.training.train import train
from fertiray.training.worker import STATE_FILE, LocalWorker

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
ZONA = PAPERS["zona_vgg13"]
KNOWN = ("unbound", "bound")


def blob(radius: int, rng: np.random.Generator) -> np.ndarray:
    image = rng.integers(180, 220, (32, 32, 3)).astype(np.uint8)
    cv2.circle(image, (16, 16), radius, (60, 60, 60), -1)
    return image


def write_folder(folder: Path, table: bool) -> None:
    rng = np.random.default_rng(0)
    rows = ["image,label,patient_id"]
    for i in range(40):
        label = KNOWN[i % 2]
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
    result = train(ZONA, TINY, str(data), str(out))
    assert result["n"] == {
        "training": 32, "validation": 8, "test": 0, "rejected": 0, "conflicting": 0,
    }  # fmt: skip
    model, meta = checkpoint.load(str(out))
    assert meta.classes == KNOWN  # FACTS: unbound 0, bound 1
    assert meta.operating.n_positive + meta.operating.n_negative == 8
    assert meta.metrics["accuracy"] == result["metrics"]["accuracy"] == 1.0
    assert isinstance(model, torch.nn.Module)
    json.dumps(result)
    crops = load_labelled(str(data), TINY.preprocessing, KNOWN)
    parts = load_split(str(out / "split.json"), crops)
    scored = Scorer.from_checkpoint(str(out))(list(crops.images[parts.validation]))
    called = scored.models[0].labels
    assert (called == crops.labels[parts.validation]).mean() == meta.metrics["accuracy"]


def test_whole_patients_and_a_test_part_are_held_out(tmp_path):
    data = tmp_path / "data"
    write_folder(data, table=True)
    settings = dataclasses.replace(TINY, epochs=1, test=0.2)
    result = train(ZONA, settings, str(data), str(tmp_path / "c"))
    assert [result["n"][part] for part in ("training", "validation", "test")] == [24, 8, 8]
    crops = load_labelled(str(data), TINY.preprocessing, KNOWN)
    parts = load_split(str(tmp_path / "c" / "split.json"), crops)
    patients = [
        {crops.patients[i] for i in part} for part in (parts.training, parts.validation, parts.test)
    ]
    assert not patients[0] & patients[1] | patients[1] & patients[2] | patients[0] & patients[2]
    # The same split for another recipe.
    again = train(
        ZONA, dataclasses.replace(settings, seed=9), str(data), str(tmp_path / "d"),
        split=str(tmp_path / "c" / "split.json"),
    )  # fmt: skip
    assert again["n"] == result["n"]
    other = load_split(str(tmp_path / "d" / "split.json"), crops)
    assert np.array_equal(other.test, parts.test)


def test_views_of_the_recipe_are_those_of_scoring(tmp_path):
    data = tmp_path / "data"
    write_folder(data, table=False)
    settings = dataclasses.replace(TINY, epochs=1, views="flip")
    train(ZONA, settings, str(data), str(tmp_path / "c"))
    crop = cv2.imread(str(data / "bound" / "1.png"))
    scorer = Scorer.from_checkpoint(str(tmp_path / "c"))
    found = scorer([crop, np.ascontiguousarray(crop[:, ::-1])]).models[0].probabilities
    assert np.allclose(found[0], found[1], atol=1e-6)


def test_unusable_data_is_refused(tmp_path):
    def refuse(data, message):
        with pytest.raises(InputError, match=message):
            train(ZONA, TINY, str(data), str(tmp_path / "c"))

    refuse(tmp_path / "x", "no such folder")
    (tmp_path / "one" / "bound").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "one/bound/a.png"), np.zeros((8, 8, 3), np.uint8))
    refuse(tmp_path / "one", "two or more classes, found \\['bound'\\]")
    (tmp_path / "one" / "banana").mkdir()
    cv2.imwrite(str(tmp_path / "one/banana/b.png"), np.zeros((9, 9, 3), np.uint8))
    refuse(tmp_path / "one", "unknown class 'banana'")
    (tmp_path / "one" / "labels.csv").write_text("file,klass\n")
    refuse(tmp_path / "one", "needs the columns image and label")


def test_contradicting_and_corrupt_images_are_left_out_and_listed(tmp_path):
    write_folder(tmp_path, table=False)
    twin = cv2.imread(str(tmp_path / "bound/1.png"))
    cv2.imwrite(str(tmp_path / "unbound/twin.png"), twin)  # the same pixels, the other label
    (tmp_path / "bound" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    result = train(
        ZONA, dataclasses.replace(TINY, epochs=1), str(tmp_path), str(tmp_path.parent / "c")
    )
    assert result["n"]["rejected"] == 1
    assert result["n"]["conflicting"] == 2


def test_pretraining_starts_from_another_checkpoint(tmp_path):
    data = tmp_path / "data"
    write_folder(data, table=False)
    first = str(tmp_path / "first")
    train(ZONA, TINY, str(data), first)
    frozen = dataclasses.replace(TINY, epochs=1, lr=1e-12, initial=first)
    again = train(ZONA, frozen, str(data), str(tmp_path / "second"))
    assert again["metrics"]["accuracy"] == 1.0  # what the first learned
    other = dataclasses.replace(frozen, model="vgg13", model_args={"pretrained": False})
    with pytest.raises(InputError, match="a checkpoint of another network"):
        train(ZONA, other, str(data), str(tmp_path / "third"))
    with pytest.raises(InputError, match="no checkpoint here"):
        train(ZONA, dataclasses.replace(TINY, initial="nowhere"), str(data), str(tmp_path / "4"))


def test_a_teacher_must_see_the_same_crops(tmp_path):
    data = tmp_path / "data"
    write_folder(data, table=False)
    teacher = str(tmp_path / "teacher")
    train(ZONA, TINY, str(data), teacher)
    loss = dataclasses.replace(TINY.loss, distil=0.5)
    student = dataclasses.replace(TINY, epochs=1, loss=loss, teacher=teacher)
    assert train(ZONA, student, str(data), str(tmp_path / "s"))["metrics"]["n_validation"] == 8
    wider = dataclasses.replace(
        student, preprocessing=dataclasses.replace(TINY.preprocessing, size=48)
    )
    with pytest.raises(InputError, match="set preprocessing to the teacher's"):
        train(ZONA, wider, str(data), str(tmp_path / "t"))


class Dying(LocalWorker):
    def report(self, metrics, state):
        super().report(metrics, state)
        raise KeyboardInterrupt


def test_the_command_goes_on_where_it_was_stopped_and_clears_its_state(tmp_path, s3):
    data = tmp_path / "data"
    write_folder(data, table=False)
    settings = ["epochs=3", "preprocessing.size=32"]
    _, tiny = recipe("zona_vgg13", "basic_cnn", settings)
    for out in (str(tmp_path / "c"), f"{s3}/c"):
        with pytest.raises(KeyboardInterrupt):
            train(ZONA, tiny, str(data), out, worker=Dying(folder=out))
        assert storage.exists(storage.join(out, STATE_FILE))
        resumed = train_paper("zona_vgg13", "basic_cnn", settings, str(data), out)
        assert not storage.exists(storage.join(out, STATE_FILE))
        plain = train_paper("zona_vgg13", "basic_cnn", settings, str(data), str(tmp_path / "p"))
        assert resumed["history"] == plain["history"]
        assert [name for name in storage.list_files(out) if "tensorboard" in name]


@pytest.mark.parametrize(
    ("paper", "model", "settings", "message"),
    [
        ("zona", None, [], "paper 'zona' is unknown; choose one of: embryo_msres"),
        ("zona_vgg13", "vgg99", [], "--model vgg99: zona_vgg13 has no such model"),
        ("zona_vgg13", None, ["epocs=3"], "unknown key 'epocs'; valid keys: model"),
        ("zona_vgg13", None, ["epochs=many"], "epochs"),
        ("zona_vgg13", None, ["loss.kind=huber"], "loss.kind"),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(paper, model, settings, message):
    with pytest.raises(InputError, match=message):
        recipe(paper, model, settings)
