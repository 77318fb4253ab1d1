"""A checkpoint folder is whole, readable and refuses to be anything else."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fertiray import checkpoint
from fertiray.errors import InputError
from fertiray.evaluation.calibration import temper
from fertiray.models import build_model
from fertiray.models.ood import fit_detector, summarise
from fertiray.models.predict import Predictor
from fertiray.models.preprocess import Preprocessing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = build_model("basic_cnn", 2, in_channels=1, size=32, args={})
    meta = checkpoint.Meta(
        name="tiny",
        paper="zona_vgg13",
        model="basic_cnn",
        task="zona",
        classes=("unbound", "bound"),
        positive="bound",
        preprocessing=Preprocessing(32, "grey", mean=(0.5,), std=(0.5,)),
        operating=checkpoint.Operating(0.5, 0.9, 0.95, 40, 60),
        data_digest="d" * 16,
    )
    checkpoint.save(str(tmp_path), model, meta)
    return tmp_path


def rewrite(folder: Path, **changes: object) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, **changes}))


def test_round_trip_is_exact(folder):
    model, meta = checkpoint.load(str(folder))
    stored = load_file(folder / "weights.safetensors")
    assert all(torch.equal(value, stored[key]) for key, value in model.state_dict().items())
    assert not model.training
    assert meta.classes == ("unbound", "bound")
    assert meta.operating == checkpoint.Operating(0.5, 0.9, 0.95, 40, 60)


def test_nothing_is_pickled(folder):
    names = {path.name for path in folder.iterdir()}
    assert {"weights.safetensors", "meta.json"} <= names
    json.loads((folder / "meta.json").read_text())
    assert (folder / "weights.safetensors").read_bytes()[8:9] == b"{"  # the safetensors header


@pytest.mark.parametrize("damage", ["truncated", "one bit"])
def test_altered_weights_are_refused(folder, damage):
    path = folder / "weights.safetensors"
    data = bytearray(path.read_bytes())
    path.write_bytes(data[:-10] if damage == "truncated" else data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(InputError, match="truncated or altered"):
        checkpoint.load(str(folder))


def test_weights_of_another_architecture_are_refused(folder):
    state = load_file(folder / "weights.safetensors")
    state["conv1.weight"] = state["conv1.weight"][:8].contiguous()
    state["extra"] = torch.zeros(1)
    save_file(state, folder / "weights.safetensors")
    import hashlib

    sha = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    rewrite(folder, weights_sha256=sha)
    with pytest.raises(InputError) as caught:
        checkpoint.load(str(folder))
    assert "extra is not expected" in str(caught.value)
    assert "conv1.weight is (8, 1, 5, 5) for (32, 1, 5, 5)" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clases": []}, "unknown key 'clases'"),
        ({"model": "resnet9000"}, "model 'resnet9000' is unknown"),
        ({"positive": "maybe"}, "positive class 'maybe' is not one of"),
        ({"classes": ["bound"]}, "two or more different names"),
        ({"format": 99}, "format 99"),
        ({"preprocessing": {"size": -3}}, "preprocessing"),
    ],
)
def test_a_tampered_description_is_refused(folder, changes, message):
    rewrite(folder, **changes)
    with pytest.raises(InputError, match=message):
        checkpoint.load(str(folder))


def test_a_folder_without_checkpoint_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no checkpoint here \(meta.json is missing\)"):
        checkpoint.read_meta(str(tmp_path / "nothing"))
    (tmp_path / "meta.json").write_text("{")
    with pytest.raises(InputError, match="not readable as JSON"):
        checkpoint.read_meta(str(tmp_path))


def test_operating_point_is_checked():
    with pytest.raises(ValueError, match="sensitivity"):
        checkpoint.Operating(0.5, 1.2, 0.9, 10, 10)
    with pytest.raises(ValueError, match="at least 1"):
        dataclasses.replace(checkpoint.Operating(0.5, 0.9, 0.9, 10, 10), n_positive=0)


def test_a_detector_travels_with_its_checkpoint_and_is_missed(folder):
    crops = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    model, meta = checkpoint.load(str(folder))
    detector = fit_detector(summarise(model, meta.preprocessing, crops), np.arange(40))
    tempered = dataclasses.replace(meta, temperatures={"class": 2.0})
    checkpoint.save(str(folder), model, tempered, detector)
    predictor, meta = checkpoint.load_predictor(str(folder))
    found = predictor.predict(crops)
    assert np.allclose(found.ood, detector(summarise(model, meta.preprocessing, crops)))
    plain = Predictor(model, meta.preprocessing)(crops)
    assert np.allclose(found.probabilities["class"], temper(plain, 2.0), atol=1e-6)
    place = folder / "ood.safetensors"
    place.write_bytes(place.read_bytes() + b" ")
    with pytest.raises(InputError, match=r"not the file that meta\.json names"):
        checkpoint.load_predictor(str(folder))
    place.unlink()
    with pytest.raises(InputError, match=r"ood\.safetensors: missing"):
        checkpoint.load_predictor(str(folder))


def test_a_temperature_out_of_bounds_is_refused(folder):
    with pytest.raises(ValueError, match="temperatures"):
        dataclasses.replace(checkpoint.read_meta(str(folder)), temperatures={"class": 0.0})
