"""Every image is tested once by a network that has not seen it; killed runs go on; runs compare."""

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from torch import nn

from fertiray.errors import InputError
from fertiray.evaluation.comparison import compare
from fertiray.models.preprocess import Preprocessing
from fertiray.models.registry import MODELS, ModelSpec
from fertiray.papers import PAPERS
from fertiray.papers.paper import Paper
from fertiray.training import crossval as module
from fertiray.training.config import Augmentation, TrainConfig
from fertiray.training.crossval import crossval

TINY = TrainConfig(
    model="basic_cnn",
    preprocessing=Preprocessing(32, "grey", mean=(0.5,), std=(0.25,)),
    epochs=2,
    batch_size=8,
    optimizer="sgd",
    lr=0.005,
    augmentation=Augmentation(noise=0.05),
    keep="last",
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


def disc(radius: int, rng: np.random.Generator) -> np.ndarray:
    image = rng.integers(120, 220, (32, 32, 3)).astype(np.uint8)
    cv2.circle(image, (16, 16), radius, (60, 60, 60), -1)
    return image


def write(folder: Path, images: int = 48, patients: int = 12) -> str:
    """Discs whose radius hints at their class; the last image has the pixels of the one before."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    rows = ["image,label,patient_id"]
    for i in range(images):
        label = i % 2
        cv2.imwrite(str(folder / f"{i:02d}.png"), disc(int(rng.integers(6, 10)) + 2 * label, rng))
        rows.append(f"{i:02d}.png,{CLASSES[label]},P{i * patients // images}")
    twin = (folder / f"{images - 1:02d}.png").read_bytes()
    (folder / "twin.png").write_bytes(twin)
    rows.append(f"twin.png,{CLASSES[(images - 1) % 2]},P0")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return write(tmp_path_factory.mktemp("toy") / "data")


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run over three folds, and the folder it was kept in."""
    out = str(tmp_path_factory.mktemp("out") / "run")
    return crossval(TOY, TINY, data, folds=3, out=out), out


def tables(out: str, folds: int = 3) -> list[pl.DataFrame]:
    return [pl.read_parquet(f"{out}/fold-{k}.parquet") for k in range(1, folds + 1)]


def test_every_image_is_tested_once_and_patients_stay_whole(whole, data):
    result, out = whole
    parts = tables(out)
    names = [name for part in parts for name in part["name"]]
    assert sorted(names) == sorted([*(f"{i:02d}.png" for i in range(48)), "twin.png"])
    assert result["n"] == sum(fold["n"] for fold in result["folds"]) == 49
    for part in parts:
        others = pl.concat([other for other in parts if other is not part])
        assert not set(part["patient_id"]) & set(others["patient_id"])
    # The twin has patient 0 and the pixels of an image of patient 11, which keeps those together.
    (own,) = [part for part in parts if "twin.png" in part["name"]]
    assert {"P0", "P11"} <= set(own["patient_id"])


def test_the_numbers_are_those_of_scikit_learn_and_scipy(whole):
    result, out = whole
    found: dict[str, list[float]] = {"accuracy": [], "macro_f1": [], "roc_auc": []}
    for part, fold in zip(tables(out), result["folds"], strict=True):
        called = np.where(part["p_large"] >= 0.5, "large", "small")
        assert called.tolist() == part["predicted"].to_list()
        found["accuracy"].append(accuracy_score(part["truth"], called))
        found["macro_f1"].append(f1_score(part["truth"], called, average="macro"))
        found["roc_auc"].append(roc_auc_score(part["truth"] == "large", part["p_large"]))
        assert {key: fold["metrics"][key] for key in found} == pytest.approx(
            {key: values[-1] for key, values in found.items()}
        )
    for key, values in found.items():
        assert result["mean"][key] == pytest.approx(np.mean(values))
        assert result["sd"][key] == pytest.approx(np.std(values, ddof=1))
        interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert result["ci95"][key] == pytest.approx([interval.low, interval.high])
    pooled = pl.concat(tables(out))
    assert result["pooled"]["accuracy"] == accuracy_score(pooled["truth"], pooled["predicted"])
    assert result["pooled"]["roc_auc"] == pytest.approx(
        roc_auc_score(pooled["truth"] == "large", pooled["p_large"])
    )
    assert result["pooled"]["ci"]["roc_auc"] is not None
    assert "within" not in result
    assert json.loads(Path(out, "crossval.json").read_text())["mean"] == result["mean"]
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("keep", ["last", "loss"])
def test_a_fold_learns_from_the_others_only(data, monkeypatch, keep):
    seen = []
    own = module.fit

    def spy(config, crops, parts, worker, *, start):
        seen.append((crops, parts))
        return own(config, crops, parts, worker, start=start)

    monkeypatch.setattr(module, "fit", spy)
    settings = dataclasses.replace(TINY, epochs=1, keep=keep, validation=0.25)
    result = crossval(TOY, settings, data, folds=3)
    tested = []
    for (crops, parts), fold in zip(seen, result["folds"], strict=True):
        everything = [parts.training, parts.validation, parts.test]
        assert sorted(np.concatenate(everything)) == list(range(49))
        groups = [set(crops.groups[part]) for part in everything]
        assert not groups[0] & groups[2]
        assert not groups[1] & (groups[0] | groups[2])
        assert (len(parts.validation) == 0) == (keep == "last")
        assert fold["n_validation"] == len(parts.validation)
        tested += parts.test.tolist()
    assert sorted(tested) == list(range(49))


class Killed(Exception):
    pass


def test_a_killed_run_loses_one_epoch_and_comes_to_the_same(data, whole, tmp_path):
    out = str(tmp_path / "run")

    def kill(fold, line):
        if (fold, line["epoch"]) == (2, 1):
            raise Killed

    with pytest.raises(Killed):
        crossval(TOY, TINY, data, folds=3, out=out, on_epoch=kill)
    assert Path(out, "fold-1.json").is_file()
    assert Path(out, "fold-2", "member-1").is_dir()
    heard, finished = [], []
    again = crossval(
        TOY,
        TINY,
        data,
        folds=3,
        out=out,
        on_epoch=lambda fold, line: heard.append((fold, line["epoch"])),
        progress=lambda line: finished.append(line["fold"]),
    )
    assert heard == [(2, 2), (3, 1), (3, 2)]
    assert finished == [1, 2, 3]
    assert not Path(out, "fold-2").exists()
    for kind in ("mean", "sd", "pooled", "calls", "split_digest"):
        assert again[kind] == whole[0][kind]


def test_folds_can_be_done_one_at_a_time(data, whole, tmp_path):
    out = str(tmp_path / "run")
    for number in (3, 1, 2):
        line = crossval(TOY, TINY, data, folds=3, out=out, only=number)
        assert line["fold"] == number
        assert line["metrics"] == whole[0]["folds"][number - 1]["metrics"]
    assert not Path(out, "crossval.json").exists()
    again = crossval(TOY, TINY, data, folds=3, out=out, on_epoch=lambda *_: pytest.fail("redone"))
    assert again["pooled"] == whole[0]["pooled"]


def test_folds_of_other_settings_are_not_mixed(data, whole):
    with pytest.raises(InputError, match=r"other settings.*another --out"):
        crossval(TOY, dataclasses.replace(TINY, lr=0.02), data, folds=3, out=whole[1])
    with pytest.raises(InputError, match="another --out"):
        crossval(TOY, TINY, data, folds=3, seed=1, out=whole[1])
    with pytest.raises(InputError, match="--folds 1"):
        crossval(TOY, TINY, data, folds=1)


def test_members_are_averaged(data, whole, tmp_path):
    out = str(tmp_path / "two")
    two = crossval(TOY, TINY, data, folds=3, out=out, members=2)
    other = str(tmp_path / "other")
    crossval(TOY, dataclasses.replace(TINY, seed=1), data, folds=3, out=other)
    columns = [pl.concat(tables(place))["p_large"].to_numpy() for place in (out, whole[1], other)]
    assert columns[0] == pytest.approx((columns[1] + columns[2]) / 2, abs=1e-6)
    assert two["folds"][0]["epochs"] == [2, 2]
    assert two["protocol"]["members"] == 2


def test_two_runs_over_the_same_folds_are_compared(data, whole):
    other = crossval(TOY, dataclasses.replace(TINY, lr=0.05, epochs=4), data, folds=3)
    found = compare(whole[0], other)["class"]
    pairs = [
        (a["metrics"]["accuracy"], b["metrics"]["accuracy"])
        for a, b in zip(whole[0]["folds"], other["folds"], strict=True)
    ]
    assert found["accuracy"]["differences"] == [a - b for a, b in pairs]
    paired = stats.ttest_rel(*zip(*pairs, strict=True))
    assert found["accuracy"]["paired"]["t"] == pytest.approx(paired.statistic)
    # Three folds: 1/3 + (1/3)/(2/3) = 5/6 of the variance in place of 1/3.
    corrected = paired.statistic * (1 / 3 / (5 / 6)) ** 0.5
    assert found["accuracy"]["corrected"]["t"] == pytest.approx(corrected)
    difference = found["mcnemar"]["only_a"] - found["mcnemar"]["only_b"]
    share = whole[0]["pooled"]["accuracy"] - other["pooled"]["accuracy"]
    assert difference == pytest.approx(49 * share)
    assert compare(other, other)["class"]["mcnemar"]["p"] == 1
    with pytest.raises(InputError, match="different folds"):
        compare(whole[0], crossval(TOY, dataclasses.replace(TINY, epochs=1), data, folds=2))


def test_a_teacher_that_knows_the_test_images_is_named(data, tmp_path):
    from fertiray.training.train import train

    folder = str(tmp_path / "initial")
    settings = dataclasses.replace(TINY, epochs=1, keep="loss", validation=0.25)
    n = train(TOY, settings, data, folder)["n"]["training"]
    result = crossval(TOY, dataclasses.replace(settings, initial=folder), data, folds=3)
    (caution,) = result["cautions"]
    assert f"learned from {n} of the 49 images" in caution


def test_days_are_kept_in_proportion_and_reported_apart(tmp_path):
    """Half of the D5 embryos are good and an eighth of the D3: each fold has the same shares."""
    rng = np.random.default_rng(1)
    folder = tmp_path / "embryos"
    folder.mkdir()
    rows = ["Image,Class"]
    for i in range(48):
        day, good = ("D3", i % 24 < 3) if i < 24 else ("D5", i % 2)
        name = f"{day}_{i:03d}.jpg"
        cv2.imwrite(str(folder / name), disc(6 + 4 * int(good), rng))
        rows.append(f"{name},{int(good)}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    paper = dataclasses.replace(TOY, known={"class": ("poor", "good")}, positive=("good",))
    out = str(tmp_path / "out")
    result = crossval(paper, dataclasses.replace(TINY, epochs=1), str(folder), folds=3, out=out)
    for part in tables(out):
        counts = part.group_by("day", "truth").len().rows()
        assert sorted(counts) == [
            ("D3", "good", 1),
            ("D3", "poor", 7),
            ("D5", "good", 4),
            ("D5", "poor", 4),
        ]
    assert [result["within"]["day"][day]["n"] for day in ("D3", "D5")] == [24, 24]
    rule = result["day_rule"]
    assert rule["pooled"]["confusion"] == [[21, 12], [3, 12]]
    assert rule["within"]["D5"]["confusion"] == [[0, 12], [0, 12]]


def test_folds_can_be_kept_on_s3(data, s3):
    settings = dataclasses.replace(TINY, epochs=1)
    first = crossval(TOY, settings, data, folds=2, out=f"{s3}/run")
    heard = []
    again = crossval(
        TOY, settings, data, folds=2, out=f"{s3}/run", on_epoch=lambda *line: heard.append(line)
    )
    assert heard == []
    assert again["pooled"] == first["pooled"]


class Graded(nn.Module):
    """A multi-task network that is small enough for a test."""

    def __init__(self, num_classes: int, in_channels: int, size: int, tasks: dict[str, int]):
        super().__init__()
        self.classifier = nn.ModuleDict(
            {task: nn.Linear(in_channels * size * size, k) for task, k in tasks.items()}
        )

    def forward(self, x):
        return {task: head(x.flatten(1)) for task, head in self.classifier.items()}


def test_a_single_task_is_compared_with_all_over_the_same_folds(tmp_path, monkeypatch):
    """Blastocysts, some not graded in all: results by task, and STL against MTL is paired."""
    rng = np.random.default_rng(3)
    folder = tmp_path / "blastocysts"
    folder.mkdir()
    rows = ["image,EXP,ICM,TE"]
    for i in range(24):
        cv2.imwrite(str(folder / f"{i:02d}.png"), disc(5 + 4 * (i % 3), rng))
        rows.append(f"{i:02d}.png,{i % 3 if i < 21 else ''},{'AB'[i % 2]},{'AB'[i // 3 % 2]}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    paper = PAPERS["blastocyst_memebg"]
    monkeypatch.setitem(MODELS, "graded", ModelSpec(Graded, (), "", classes={"EXP": 3}))
    settings = dataclasses.replace(TINY, model="graded", preprocessing=Preprocessing(32), epochs=1)
    out = str(tmp_path / "out")
    multi = crossval(paper, settings, str(folder), folds=2, out=out)
    one = dataclasses.replace(settings, model="basic_cnn", task="EXP")
    single = crossval(paper, one, str(folder), folds=2)
    assert list(multi["tasks"]) == ["EXP", "ICM", "TE"]
    assert [part["pooled"]["n"] for part in multi["tasks"].values()] == [21, 24, 24]
    assert multi["mean"] == multi["tasks"]["EXP"]["mean"]
    assert single["pooled"]["n"] == single["n"] == 21
    table = pl.concat(tables(out, 2))
    assert table["truth_EXP"].null_count() == 3
    assert multi["tasks"]["ICM"]["pooled"]["accuracy"] == pytest.approx(
        accuracy_score(table["truth_ICM"], table["predicted_ICM"])
    )
    compared = compare(multi, single)
    assert list(compared) == ["EXP"]
    assert len(compared["EXP"]["macro_f1"]["differences"]) == 2


@pytest.mark.realdata
def test_hung_vuong_by_day(real_data, tmp_path):
    """The day-only rule is what the published table of labels says of the images that are used."""
    paper, out = PAPERS["embryo_msres"], str(tmp_path)
    settings = dataclasses.replace(TINY, epochs=1)
    result = crossval(paper, settings, str(real_data / "hungvuong"), folds=2, out=out)
    assert result["n"] + sum(result["excluded"].values()) == 718
    published = pl.read_csv(real_data / "hungvuong" / "labels.csv")
    used = {Path(name).name for part in tables(out, 2) for name in part["name"]}
    published = published.filter(pl.col("Image").is_in(used))
    late = published["Image"].str.starts_with("D5")
    counts = [
        [int(((published["Class"] == good) & (late == day)).sum()) for day in (False, True)]
        for good in (0, 1)
    ]
    assert result["day_rule"]["pooled"]["confusion"] == counts
    by_day = result["within"]["day"]
    assert by_day["D3"]["n"] + by_day["D5"]["n"] == result["n"] == sum(map(sum, counts))
