"""The gallery on real runs: a cross-validation, a checkpoint, a cohort; odd and missing inputs."""

import csv
import dataclasses
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from fertiray import storage
from fertiray.errors import InputError
from fertiray.evaluation.clinical import validate
from fertiray.evaluation.figures.entries import Drawn
from fertiray.evaluation.figures.from_checkpoint import checkpoint_entries
from fertiray.evaluation.figures.from_crossval import crossval_entries
from fertiray.evaluation.figures.gallery import _names, cohort_figures, gallery
from fertiray.evaluation.figures.sources import crossval_histories, read_crossval, read_events
from fertiray.models.preprocess import Preprocessing
from fertiray.papers.paper import Paper
from fertiray.training.config import TrainConfig
from fertiray.training.crossval import crossval
from fertiray.training.logs import EpochLog
from fertiray.training.train import train
from fertiray.training.worker import LocalWorker

TABLE = Path(__file__).parents[1] / "zona_table1.csv"
TINY = TrainConfig(
    model="basic_cnn",
    preprocessing=Preprocessing(32, "grey", mean=(0.5,), std=(0.25,)),
    epochs=2,
    batch_size=8,
    optimizer="sgd",
    lr=0.005,
    keep="last",
    validation=0.2,
    test=0.4,
)
CLASSES = ("small", "large")
TOY = Paper(
    name="toy",
    citation="",
    task="morphology",
    known={"class": CLASSES},
    positive=("large",),
    models={"basic_cnn": TINY},
)


def close(log: EpochLog) -> None:
    """As at the end of the process: what the writer's thread still holds goes to the disk."""
    log._writer.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """48 discs of 24 patients, two of each."""
    folder = tmp_path_factory.mktemp("data") / "discs"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = ["image,label,patient_id"]
    for i in range(48):
        image = rng.integers(120, 220, (32, 32, 3)).astype(np.uint8)
        cv2.circle(image, (16, 16), int(rng.integers(6, 10)) + 2 * (i % 2), (60, 60, 60), -1)
        cv2.imwrite(str(folder / f"secret{i:02d}.png"), image)
        rows.append(f"secret{i:02d}.png,{CLASSES[i % 2]},Smith{i // 2}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return str(folder)


@pytest.fixture(scope="module")
def folds(data, tmp_path_factory) -> list[str]:
    """Two cross-validations over the same three folds."""
    places = []
    for name, epochs in (("short", 1), ("long", 2)):
        place = str(tmp_path_factory.mktemp("crossval") / name)
        crossval(TOY, dataclasses.replace(TINY, epochs=epochs), data, folds=3, out=place)
        places.append(place)
    return places


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> str:
    place = str(tmp_path_factory.mktemp("checkpoint") / "toy")
    log = EpochLog(2, f"{place}/tensorboard")
    train(TOY, TINY, data, place, worker=LocalWorker("cpu", place, log))
    close(log)
    return place


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> tuple[str, str]:
    """Table 1 of the zona paper: 30 men."""
    tmp_path = tmp_path_factory.mktemp("clinic")
    rows = list(csv.DictReader(TABLE.open()))
    patients, treated = tmp_path / "patients.csv", tmp_path / "outcomes.csv"
    patients.write_text(
        "patient_id,fraction\n"
        + "".join(
            f"Smith{row['patient_id']},{float(row['predicted_zp_percent']) / 100}\n" for row in rows
        )
    )
    treated.write_text(
        "patient_id,fertilisation_percent\n"
        + "".join(f"Smith{row['patient_id']},{row['fertilisation_percent']}\n" for row in rows)
    )
    return str(patients), str(treated)


@pytest.fixture(scope="module")
def made(folds, trained, data, outcomes, tmp_path_factory):
    """The gallery of all of it, with the results of record of this repository."""
    out = tmp_path_factory.mktemp("gallery") / "figures"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).parents[3])
        return gallery(
            str(out), crossval=folds, checkpoint=trained, data=data, outcomes=outcomes, limit=30
        )


def test_every_input_has_its_figures(made):
    names = {figure["name"] for figure in made["figures"]}
    assert len(names) == len(made["figures"])
    for stem in ("short", "long", "toy"):
        assert {f"{stem}-confusion", f"{stem}-roc", f"{stem}-calibration"} <= names
    assert {"toy-curves", "toy-tsne", "toy-heatmaps", "toy-sanity"} <= names
    assert {"folds-1-accuracy", "ablation-hushem-accuracy"} <= names
    assert {"cohort-groups", "cohort-roc", "cohort-rate"} <= names
    assert {"short-curves", "long-curves"} <= names
    assert made["left_out"] == []
    for figure in made["figures"]:
        assert [Path(file).suffix for file in figure["files"]] == [".svg", ".png"]
        assert all(Path(file).stat().st_size > 1000 for file in figure["files"])


def test_captions_have_their_n(made, trained):
    captions = {figure["name"]: figure["caption"] for figure in made["figures"]}
    assert "48 images, each tested once" in captions["short-confusion"]
    assert "bootstrap over patients" in captions["short-roc"]
    n = json.loads(Path(trained, "split.json").read_text())["sizes"]["test"]["n"]
    assert f"of {n} test images" in captions["toy-tsne"]
    assert "The same 3 folds under 2 methods" in captions["folds-1-accuracy"]
    # Table 1 of the paper: 14 men below, 16 above its threshold.
    assert "30 patients" in captions["cohort-groups"]
    assert "high (16 patients) against low (14)" in captions["cohort-roc"]


def test_the_page_links_to_every_file_and_names_nobody(made):
    out = Path(made["index"]).parent
    page = Path(made["index"]).read_text()
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(links) == 3 * len(made["figures"])
    assert all((out / link).is_file() for link in links)
    told = [[f["caption"], f["source"]] for f in made["figures"]]
    written = [page, json.dumps([made["left_out"], told])]
    written += [place.read_text() for place in out.glob("*.svg")]
    assert not any("Smith" in text or "secret" in text for text in written)
    assert {place.suffix for place in out.iterdir()} == {".svg", ".png", ".html"}


def test_the_same_inputs_give_the_same_bytes(made, folds, tmp_path):
    gallery(str(tmp_path), crossval=folds[:1])
    names = sorted(place.name for place in tmp_path.glob("short-*"))
    assert len(names) == 8
    for name in names:
        assert (tmp_path / name).read_bytes() == Path(made["index"]).with_name(name).read_bytes()


def test_a_validation_has_its_figures(outcomes, tmp_path):
    result = validate(*outcomes, out=str(tmp_path))
    drawn = cohort_figures(result, str(tmp_path))
    assert [figure["name"] for figure in drawn] == ["cohort-groups", "cohort-roc", "cohort-rate"]
    svg = Path(drawn[1]["files"][0]).read_text()
    assert f"above {result['roc']['youden']['threshold']:.1%}" in svg


def test_nothing_given_gives_a_page_that_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = gallery("memory://empty")
    assert made["figures"] == []
    assert [one["name"] for one in made["left_out"]] == [
        "cross-validation",
        "ablation",
        "checkpoint",
        "cohort",
    ]
    page = storage.read_bytes(made["index"]).decode()
    assert "no checkpoint given" in page


def test_a_checkpoint_without_images_and_one_with_few(trained, data):
    (curves, *left_out) = checkpoint_entries("toy", trained, None, 500, 0)
    assert (curves.name, curves.caption[:9]) == ("toy-curves", "Training:")
    assert {one.why for one in left_out} == {"no labelled images given"}
    few = {entry.name: entry for entry in checkpoint_entries("toy", trained, data, 10, 0)}
    assert "10 images are too few for a perplexity of 15" in few["toy-tsne"].why
    assert isinstance(few["toy-heatmaps"], Drawn)


def test_folders_of_the_same_name_and_odd_ones_are_kept_apart():
    folders = ["/a/short", "s3://b/short/", "/a/<b>&short", "/a/..", "short-2"]
    assert _names(folders) == ["short", "short-2", "b_short", "folder", "short-2-2"]


def test_three_methods_have_no_test_of_two(folds):
    names = {"short": folds[0], "long": folds[1], "again": folds[0]}
    entries = {entry.name: entry for entry in crossval_entries(names, 0)}
    caption = entries["folds-1-accuracy"].caption
    assert "The same 3 folds under 3 methods" in caption
    assert caption.endswith("a bar at the mean.")


def test_predictions_are_those_of_the_folds(folds):
    result, (own,) = read_crossval(folds[0])
    assert own.classes == CLASSES
    assert (own.positive, own.threshold) == ("large", 0.5)
    assert np.unique(own.folds, return_counts=True)[1].tolist() == [f["n"] for f in result["folds"]]
    assert len(np.unique(own.groups)) == 24
    confusion = np.zeros((2, 2), int)
    np.add.at(confusion, (own.labels, own.called), 1)
    assert confusion.tolist() == result["pooled"]["confusion"]


def test_folds_carry_their_epochs_unless_an_earlier_version_wrote_them(folds, tmp_path):
    result, _ = read_crossval(folds[1])
    histories, kept = crossval_histories(result)
    assert [[line["epoch"] for line in history] for history in histories] == [[1, 2]] * 3
    assert kept == [2, 2, 2]
    for fold in result["folds"]:
        del fold["history"]
    assert crossval_histories(result) == ([], [])
    old = tmp_path / "old"
    shutil.copytree(folds[1], old)
    (old / "crossval.json").write_text(json.dumps(result))
    entries = {entry.name: entry for entry in crossval_entries({"old": str(old)}, 0)}
    assert entries["old-curves"].why == "the files of the folds carry no epochs"


def test_a_folder_without_a_cross_validation_is_named(tmp_path):
    with pytest.raises(InputError, match=r"crossval\.json: no such file"):
        gallery(str(tmp_path / "out"), crossval=[str(tmp_path)])


def test_event_files_hold_the_epoch_lines(trained, tmp_path):
    lines = read_events(f"{trained}/tensorboard")
    assert [line["epoch"] for line in lines] == [1, 2]
    assert {"lr", "training_loss", "validation_loss", "validation_macro_f1"} <= set(lines[0])
    log = EpochLog(3, str(tmp_path / "again"))
    for epoch in (1, 2):
        log({"epoch": epoch, "training_loss": 0.5 / epoch, "seconds": 0.1})
    close(log)
    (place,) = (tmp_path / "again").glob("events*")
    place.write_bytes(place.read_bytes()[:-5])  # killed as it wrote
    assert read_events(str(tmp_path / "again"))[0]["training_loss"] == 0.5
    assert read_events(str(tmp_path / "nothing")) == []
