"""``fertiray explain`` from a checkpoint and images to files and numbers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fertiray import checkpoint, storage
from fertiray.data import crops
from fertiray.data.images import decode, encode_png
from fertiray.data.ingest import ingest
from fertiray.errors import InputError
from fertiray.evaluation.explain.pictures import evenly
from fertiray.evaluation.explain.run import explain
from fertiray.models import build_model
from fertiray.models.preprocess import Preprocessing
from fertiray.scoring.scorer import Scorer

RGB = Preprocessing(32, mean=(0.5,) * 3, std=(0.25,) * 3)
VIABILITY = checkpoint.Meta(
    name="tiny",
    paper="embryo_msres",
    model="msres",
    task="viability",
    classes=("poor", "good"),
    positive="good",
    preprocessing=RGB,
    operating=checkpoint.Operating(0.3, 0.9, 0.95, 40, 60),
    temperatures={"class": 2.0},
    data_digest="d" * 16,
    model_args={"width": 0.125},
)
BINDING = dataclasses.replace(
    VIABILITY,
    paper="zona_vgg13",
    model="basic_cnn",
    task="zona",
    classes=("unbound", "bound"),
    positive="bound",
    preprocessing=Preprocessing(32, "grey", mean=(0.5,), std=(0.5,)),
    model_args={},
)
GRADES = {"EXP": ("1", "2", "3"), "TE": ("A", "B")}
GRADING = dataclasses.replace(
    VIABILITY,
    paper="blastocyst_memebg",
    model="memebg",
    task="grading",
    classes=GRADES["EXP"],
    tasks=GRADES,
    positive="3",
    preprocessing=Preprocessing(28),
    model_args={},
    temperatures={},
)


def saved(folder: Path, meta: checkpoint.Meta) -> str:
    torch.manual_seed(0)
    args = dict(meta.model_args)
    if meta.tasks:
        args |= {"pretrained": False, "tasks": {task: len(own) for task, own in GRADES.items()}}
    how = meta.preprocessing
    model = build_model(
        meta.model, len(meta.classes), in_channels=how.channels, size=how.size, args=args
    )
    checkpoint.save(str(folder), model, meta)
    return str(folder)


@pytest.fixture(scope="module")
def viability(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("viability"), VIABILITY)


@pytest.fixture(scope="module")
def binding(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("binding"), BINDING)


def noise(count: int, seed: int = 0) -> list[bytes]:
    random = np.random.default_rng(seed)
    return [encode_png(random.integers(0, 256, (40, 36, 3), dtype=np.uint8)) for _ in range(count)]


def put(folder: Path | str, images: dict[str, bytes]) -> str:
    for name, data in images.items():
        storage.write_bytes(storage.join(folder, name), data)
    return str(folder)


def test_every_image_gets_its_files_and_bad_ones_are_named(viability, tmp_path):
    one, two, three, four = noise(4)
    names = ["a/x 1.png", "b/x 1.png", "b/x_1.png", "b/größe;&'é.png"]
    where = put(tmp_path / "in", dict(zip(names, (one, two, three, four), strict=True)))
    put(where, {"b/cut.png": one[:200], "b/wrong.jpg": two, "labels.csv": b"image,label\n"})
    out = tmp_path / "out"
    found = explain(viability, where, method="gradcam", out=str(out), layers=["stem", "msres2"])
    assert json.loads((out / "explain.json").read_text()) == found
    assert sorted({row["image"] for row in found["maps"]}) == sorted(names)
    assert [row["image"] for row in found["failed"]] == ["b/cut.png", "b/wrong.jpg"]
    assert found["failed"][0]["error"].startswith("truncated")
    assert len(found["maps"]) == 2 * 4
    assert len({row["overlay"] for row in found["maps"]}) == 8
    for row in found["maps"]:
        assert row["overlay"].isascii()
        assert set(row["overlay"]).isdisjoint(" ;&'")
        assert decode((out / row["overlay"]).read_bytes()).shape == (32, 32, 3)
        with np.load(out / row["heat"], allow_pickle=False) as packed:
            own = packed[row["layer"]]
        assert (own.shape, own.dtype) == ((32, 32), np.float16)
        assert row["class"] == row["predicted"]
        assert row["inside_head"] is row["area_share"] is row["points_inside"] is None
    assert found["summary"]["images"] == 4
    assert found["summary"]["sanity"] is None


def test_class_and_probability_are_those_of_scoring(viability, tmp_path):
    images = noise(5)
    where = put(tmp_path / "in", {f"{i}.png": data for i, data in enumerate(images)})
    scored = Scorer.from_checkpoint(viability, device="cpu")(images).models[0]
    found = explain(viability, where, method="saliency", out=str(tmp_path / "out"))["maps"]
    assert [row["predicted"] for row in found] == [VIABILITY.classes[i] for i in scored.labels]
    probabilities = scored.probabilities[np.arange(5), scored.labels]
    np.testing.assert_allclose([row["probability"] for row in found], probabilities, atol=1e-6)
    poor = explain(
        viability, where, method="gradcam", out=str(tmp_path / "poor"), target="poor", limit=3
    )["maps"]
    assert [row["image"] for row in poor] == ["0.png", "2.png", "4.png"]
    np.testing.assert_allclose(
        [row["probability"] for row in poor], scored.probabilities[::2, 0], atol=1e-6
    )
    assert {(row["layer"], row["class"]) for row in poor} == {("msres2", "poor")}


def test_a_crop_store_and_a_single_file_are_explained_alike(viability, tmp_path):
    tree = put(tmp_path / "in", {f"p{i}/s/{i}.png": data for i, data in enumerate(noise(3))})
    store = str(tmp_path / "store")
    ingest(tree, store)
    stored = explain(viability, store, method="gradcam++", out=str(tmp_path / "a"))
    ids = [row["crop_id"] for row in crops.iter_rows(store, ["crop_id"])]
    assert [row["image"] for row in stored["maps"]] == ids
    single = explain(viability, f"{tree}/p1/s/1.png", method="gradcam++", out=str(tmp_path / "b"))
    assert [row["image"] for row in single["maps"]] == ["1.png"]
    own = next(
        row["heat"]
        for row, found in zip(stored["maps"], crops.iter_rows(store, ["patient_id"]), strict=True)
        if found["patient_id"] == "p1"
    )
    with (
        np.load(tmp_path / "a" / own) as first,
        np.load(tmp_path / "b" / single["maps"][0]["heat"]) as second,
    ):
        np.testing.assert_allclose(first["msres2"], second["msres2"], atol=2e-3)  # float16


def test_the_share_on_the_head_is_measured_where_there_is_one(binding, smear, tmp_path):
    images = {f"{i}.png": encode_png(smear(150 + i, 140)) for i in range(3)}
    where = put(tmp_path / "in", {**images, "empty.png": noise(1)[0]})
    found = explain(
        binding, where, method="gradcam", out=str(tmp_path / "out"), layers=["conv1", "conv2"]
    )
    summary = found["summary"]
    assert (summary["images"], summary["without_head"]) == (4, 1)
    # An ellipse of 60 x 36 px in a square of 150: 7.5% of the area.
    assert summary["layers"]["conv1"]["area_share"]["mean"] == pytest.approx(0.075, abs=0.01)
    for row in found["maps"]:
        assert (row["area_share"] is None) == (row["image"] == "empty.png")
        assert row["inside_head"] is None or 0 <= row["inside_head"] <= 1


def test_sanity_of_the_explained_classes_stands_in_the_summary(viability, tmp_path):
    where = put(tmp_path / "in", {f"{i}.png": data for i, data in enumerate(noise(6))})
    found = explain(
        viability, where, method="gradcam", out=str(tmp_path / "out"), sanity="last", limit=4
    )
    (row,) = found["summary"]["sanity"]
    assert (row["randomised"], row["layer"]) == ("msres.2", "msres2")
    assert row["n"] + row["undefined"] == 4
    again = explain(
        viability, where, method="gradcam", out=str(tmp_path / "two"), sanity="last", limit=4
    )
    assert again["summary"] == found["summary"]


def test_a_task_of_several_is_chosen_by_name(tmp_path):
    grading = saved(tmp_path / "c", GRADING)
    where = put(tmp_path / "in", {"a.png": noise(1)[0]})

    def run(**how):
        return explain(grading, where, method="gradcam", out=str(tmp_path / "out"), **how)["maps"]

    (row,) = run(task="TE", target="B")
    assert (row["task"], row["class"], row["layer"]) == ("TE", "B", "resnet")
    assert run()[0]["task"] == "EXP"
    with pytest.raises(InputError, match="task 'ICM' is unknown; choose one of: EXP, TE"):
        run(task="ICM")
    with pytest.raises(InputError, match="class '3' is unknown; choose one of: A, B"):
        run(task="TE", target="3")


def test_from_and_to_s3(viability, s3, tmp_path):
    where = put(f"{s3}/in", {"a/1.png": noise(1)[0], "bad.png": b"?"})
    found = explain(viability, where, method="gradcam", out=f"{s3}/out")
    assert [row["image"] for row in found["failed"]] == ["bad.png"]
    assert storage.exists(f"{s3}/out/{found['maps'][0]['overlay']}")
    single = explain(viability, f"{where}/a/1.png", method="gradcam", out=str(tmp_path / "out"))
    assert single["maps"][0]["image"] == "1.png"


def test_what_cannot_be_explained_is_said_in_one_line(viability, tmp_path):
    where = put(tmp_path / "in", {"a.png": noise(1)[0]})
    out = str(tmp_path / "out")
    with pytest.raises(InputError, match=r"'block5' is unknown to gradcam; choose of: stem, cbm0"):
        explain(viability, where, method="gradcam", out=out, layers=["block5"])
    with pytest.raises(InputError, match=r"'lime' is unknown; choose one of: gradcam"):
        explain(viability, where, method="lime", out=out)
    with pytest.raises(InputError, match=r"class 'bound' is unknown; choose one of: poor, good"):
        explain(viability, where, method="gradcam", out=out, target="bound")
    with pytest.raises(InputError, match=r"nowhere: not there"):
        explain(viability, str(tmp_path / "nowhere"), method="gradcam", out=out)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no image there"):
        explain(viability, str(tmp_path / "none"), method="gradcam", out=out)
    assert not Path(out).exists()


def test_only_bad_images_make_an_empty_result(viability, tmp_path):
    where = put(tmp_path / "in", {"a.png": b"", "b.png": b"x" * 50})
    found = explain(viability, where, method="gradcam", out=str(tmp_path / "o"), sanity="last")
    assert (len(found["maps"]), len(found["failed"])) == (0, 2)
    assert found["summary"]["sanity"] is None


def test_evenly_takes_first_and_last():
    assert evenly(10, 4) == {0, 3, 6, 9}
    assert evenly(3, 50) == {0, 1, 2}
    assert evenly(5, 1) == {0}


@pytest.mark.realdata
def test_hushem_heads_are_cut_in_their_own_frame(real_data, tmp_path):
    morphology = dataclasses.replace(
        VIABILITY,
        paper="sperm_effnet_cbam",
        model="simple_cnn",
        task="morphology",
        classes=("Normal", "Tapered", "Pyriform", "Amorphous"),
        positive="Normal",
        preprocessing=Preprocessing(64, window=0.72),
        model_args={},
        config={"frame": "head", "views": "swing"},
    )
    folder = saved(tmp_path / "c", morphology)
    found = explain(
        folder,
        str(real_data / "hushem"),
        method="gradcam++",
        out=str(tmp_path / "out"),
        layers=["block2", "block4"],
        limit=4,
        sanity="last",
    )
    assert found["failed"] == []
    assert {row["image"].partition("/")[0] for row in found["maps"]} == {
        *("01_Normal", "02_Tapered", "03_Pyriform", "04_Amorphous")
    }
    assert found["summary"]["without_head"] == 0
    # Two head lengths a side: a head of aspect 1.5 to 2.2 covers 9 to 13% of the frame, and 0.72 of
    # its side is seen, so 17 to 25%.
    for row in found["maps"]:
        assert 0.1 < row["area_share"] < 0.35
