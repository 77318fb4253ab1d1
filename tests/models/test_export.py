"""An exported checkpoint says what the checkpoint says, without this package."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from fertiray import checkpoint
from fertiray.export import PARITY, export
from fertiray.models import build_model
from fertiray.models.predict import Predictor
from fertiray.models.preprocess import Preprocessing


def save(folder, seeded, model, preprocessing, classes=("a", "b"), **fields):
    args = fields.pop("model_args", {})
    network = build_model(
        model,
        len(classes),
        in_channels=preprocessing.channels,
        size=preprocessing.size,
        args=args,
    )
    meta = checkpoint.Meta(
        name=model,
        paper="zona_vgg13",
        model=model,
        model_args=args,
        task="zona",
        classes=classes,
        positive=classes[0],
        preprocessing=preprocessing,
        operating=checkpoint.Operating(0.5, 0.9, 0.9, 10, 10),
        data_digest="d" * 16,
        **fields,
    )
    return checkpoint.save(str(folder), seeded(network), meta)


@pytest.mark.parametrize(
    ("model", "preprocessing", "args"),
    [
        ("basic_cnn", Preprocessing(32, "grey", mean=(0.5,), std=(0.25,)), {}),
        ("basic_cnn", Preprocessing(32, "density", mean=(0.5,), std=(0.5,)), {}),
        ("msres", Preprocessing(32), {}),
        ("effnet_cbam", Preprocessing(64), {"pretrained": False}),
        pytest.param(
            "madrnet_eb0", Preprocessing(64), {"pretrained": False}, marks=pytest.mark.slow
        ),
    ],
    ids=["grey", "density", "msres", "cbam", "madrnet"],
)
def test_parity(tmp_path, seeded, picture, model, preprocessing, args):
    save(tmp_path / "checkpoint", seeded, model, preprocessing, model_args=args)
    out = tmp_path / "model.pt2"
    report = export(str(tmp_path / "checkpoint"), str(out))
    assert report["max_abs_dp"] <= PARITY
    assert report["bytes"] == out.stat().st_size
    # Another batch size than the export saw, against the engine that scores.
    size = preprocessing.size
    crops = (picture(7, 3, size) * 60 + 128).clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    network, meta = checkpoint.load(str(tmp_path / "checkpoint"))
    expected = Predictor(network, meta.preprocessing)(crops)
    extra = {"meta.json": ""}
    program = torch.export.load(out, extra_files=extra).module()
    with torch.no_grad():
        found = program(torch.from_numpy(crops))["probabilities"].numpy()
    assert np.abs(found - expected).max() <= PARITY
    assert np.ptp(expected, axis=0).max() > 50 * PARITY  # it depends on the crop
    assert json.loads(extra["meta.json"])["weights_sha256"] == meta.weights_sha256


@pytest.mark.slow
def test_a_multi_task_network_gives_each_task(tmp_path, seeded):
    tasks = {"EXP": ("0", "1", "2"), "TE": ("A", "B")}
    save(
        tmp_path / "checkpoint",
        seeded,
        "memebg",
        Preprocessing(28),
        classes=tasks["EXP"],
        tasks=tasks,
        model_args={"pretrained": False, "tasks": {"EXP": 3, "TE": 2}},
    )
    report = export(str(tmp_path / "checkpoint"), str(tmp_path / "model.pt2"))
    assert report["outputs"] == ["EXP", "TE"]
    assert report["max_abs_dp"] <= PARITY


def test_an_export_that_differs_is_not_written(tmp_path, seeded, monkeypatch):
    preprocessing = Preprocessing(32, "grey", mean=(0.5,), std=(0.25,))
    save(tmp_path / "checkpoint", seeded, "basic_cnn", preprocessing)
    true_export = torch.export.export

    def wrong(program, *args, **options):
        other = dataclasses.replace(preprocessing, mean=(0.4,))
        return true_export(type(program)(program.model, other).eval(), *args, **options)

    monkeypatch.setattr(torch.export, "export", wrong)
    with pytest.raises(RuntimeError, match="differs from the network"):
        export(str(tmp_path / "checkpoint"), str(tmp_path / "model.pt2"))
    assert not (tmp_path / "model.pt2").exists()
