"""A folder translated by a generator keeps its tree, its labels and its bad images' names."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fertiray import checkpoint, generator_checkpoint, storage
from fertiray.data.ingest import ingest
from fertiray.data.synthetic import synth_crops
from fertiray.errors import InputError
from fertiray.models.cyclegan import CycleGANGenerator
from fertiray.models.preprocess import Preprocessing, resize_crop
from fertiray.models.translator import Translator
from fertiray.scoring.translate import translate

GREY = Preprocessing(32, "grey", mean=(0.5,), std=(0.5,))


def save_generator(folder: Path, seed: int = 0) -> str:
    torch.manual_seed(seed)
    generator = CycleGANGenerator(1, 32, blocks=1, width=4)
    with torch.no_grad():
        generator.output.bias += 0.3
    meta = generator_checkpoint.GeneratorMeta(
        name="toy",
        paper="zona_vgg13",
        preprocessing=GREY,
        data_digest="0",
        args={"width": 4, "blocks": 1},
    )
    generator_checkpoint.save(str(folder), generator, meta)
    return str(folder)


@pytest.fixture(scope="module")
def generator(tmp_path_factory) -> str:
    return save_generator(tmp_path_factory.mktemp("generator"))


@pytest.fixture
def images(tmp_path) -> Path:
    """A labelled tree with two patients, a JPEG, a broken image and a readme."""
    folder = tmp_path / "images"
    synth_crops(folder, patients=2, crops=4, seed=1, size=32, slides=1, fractions=0.5)
    picture = cv2.imread(str(folder / "P001/S1/crop-000001.png"))
    cv2.imwrite(str(folder / "P001/S1/photo.jpg"), picture)
    cv2.imwrite(str(folder / "P001/S1/photo.jpg.png"), cv2.resize(picture, (48, 40)))
    (folder / "P002/S1/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (folder / "README.txt").write_text("what this is")
    with (folder / "labels.csv").open("a") as table:
        table.write("P001/S1/photo.jpg,bound,P001,S1\n")
        table.write("./P002/S1/broken.png,bound,P002,S1\n")
    return folder


def test_tree_labels_and_rejects(generator, images, tmp_path):
    out = tmp_path / "out"
    seen = []
    result = translate(generator, str(images), str(out), progress=lambda *n: seen.append(n))
    assert result["n"] == {
        "images": 11,
        "translated": 10,
        "kept": 0,
        "rejected": 1,
        "copied": 3,  # README.txt, labels.csv, truth.json
        "rows_dropped": 1,
    }
    (rejected,) = result["rejected"]
    assert rejected["image"] == "P002/S1/broken.png"
    assert rejected["reason"].startswith("truncated")
    assert result["left_out"] == ["heads.csv"]
    assert seen[-1] == (12, 12)
    json.dumps(result)
    expected = {
        *("README.txt", "labels.csv", "truth.json"),
        *(f"P00{p}/S1/crop-00000{c}.png" for p in (1, 2) for c in range(1, 5)),
        *("P001/S1/photo.jpg-.png", "P001/S1/photo.jpg.png"),
    }
    assert {storage.relative(place, out) for place in storage.list_files(out)} == expected
    assert (out / "truth.json").read_bytes() == (images / "truth.json").read_bytes()
    with (images / "labels.csv").open() as file:
        before = list(csv.reader(file))
    with (out / "labels.csv").open() as file:
        after = list(csv.reader(file))
    assert after[:9] == before[:9]
    assert after[9:] == [["P001/S1/photo.jpg-.png", "bound", "P001", "S1"]]


def test_pixels_are_the_generators(generator, images, tmp_path):
    translate(generator, str(images), str(tmp_path / "out"))
    model, meta = generator_checkpoint.load(generator)
    for name in ("P002/S1/crop-000003.png", "P001/S1/photo.jpg.png"):
        rgb = cv2.imread(str(images / name))[:, :, ::-1]
        batch = resize_crop(np.ascontiguousarray(rgb), GREY)[None]
        luma = (batch * np.array([0.299, 0.587, 0.114])).sum(-1) / 127.5 - 1  # ITU-R BT.601
        with torch.no_grad():
            value = model(torch.from_numpy(luma[None]).float())[0, 0].numpy()
        found = cv2.imread(str(tmp_path / "out" / name))
        assert found.shape == (32, 32, 3)
        assert (found[..., 0] == found[..., 2]).all()
        assert np.abs(found[..., 0] - (value + 1) * 127.5).max() <= 0.51  # rounded
        assert (found == Translator(model, meta.preprocessing)(batch)[0]).all()


def test_interrupted_and_taken_up_again(generator, images, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    translate(generator, str(images), str(whole))
    translate(generator, str(images), str(out))
    lost = ["labels.csv", "P001/S1/crop-000002.png", "P002/S1/crop-000001.png"]
    for name in lost:  # as if it had stopped before them
        (out / name).unlink()
    before = (out / "P001/S1/crop-000001.png").stat().st_mtime_ns
    result = translate(generator, str(images), str(out))
    assert result["n"]["translated"] == 2
    assert result["n"]["kept"] == 8
    assert result["n"]["rejected"] == 1
    assert result["n"]["images"] == 11
    assert (out / "P001/S1/crop-000001.png").stat().st_mtime_ns == before
    for name in [*lost, "P001/S1/photo.jpg-.png"]:
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_another_generator_or_other_images_are_another_translation(generator, images, tmp_path):
    out = str(tmp_path / "out")
    translate(generator, str(images), out)
    with pytest.raises(InputError, match="holds images of another translation"):
        translate(save_generator(tmp_path / "second", seed=1), str(images), out)
    (images / "P001/S1/crop-000001.png").unlink()
    with pytest.raises(InputError, match="holds images of another translation"):
        translate(generator, str(images), out)


def test_wrong_places_are_refused(generator, images, tmp_path):
    with pytest.raises(InputError, match="is not empty; give a folder of its own"):
        translate(generator, str(images / "P001"), str(images / "P002"))
    with pytest.raises(InputError, match="lies inside the input"):
        translate(generator, str(images), str(images / "new"))
    with pytest.raises(InputError, match="no such folder"):
        translate(generator, str(tmp_path / "absent"), str(tmp_path / "out"))
    with pytest.raises(InputError, match=r"no generator here \(meta.json is missing\)"):
        translate(str(images), str(images), str(tmp_path / "out"))
    ingest(str(images), str(tmp_path / "store"))
    with pytest.raises(InputError, match="is a crop store; translate the folder of images"):
        translate(generator, str(tmp_path / "store"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_generator_is_no_classifier(generator):
    for reads in (checkpoint.read_meta, checkpoint.load, checkpoint.load_predictor):
        with pytest.raises(InputError, match="a generator of images") as refused:
            reads(generator)
        assert "fertiray data translate" in str(refused.value)


def test_on_s3(generator, images, tmp_path, s3):
    for place in images.rglob("*.*"):
        name = place.relative_to(images).as_posix()
        storage.write_bytes(f"{s3}/images/{name}", place.read_bytes())
    there = translate(generator, f"{s3}/images", f"{s3}/out")
    here = translate(generator, str(images), str(tmp_path / "out"))
    assert there["n"] == here["n"]
    for name in ("labels.csv", "P001/S1/crop-000001.png"):
        assert storage.read_bytes(f"{s3}/out/{name}") == (tmp_path / "out" / name).read_bytes()
