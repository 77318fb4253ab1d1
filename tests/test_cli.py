"""The command line: one JSON document, one line for a mistake, and the right exit code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fertiray.cli import main


def fertiray(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fertiray", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def document(done: subprocess.CompletedProcess[str]) -> dict:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_doctor_lists_its_checks():
    found = document(fertiray("doctor", "--json", FERTIRAY_WEIGHTS=""))
    assert found["ok"] is True
    names = {check["name"]: check for check in found["checks"]}
    assert {"python", "torch", "cv2", "ray", "processor", "disk here"} <= set(names)
    assert names["pretrained weights"]["remedy"]


def test_doctor_finds_a_wrong_weights_folder(tmp_path):
    done = fertiray("doctor", "--json", FERTIRAY_WEIGHTS=str(tmp_path))
    assert done.returncode == 1
    assert json.loads(done.stdout)["ok"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["score"], "fertiray score: Missing argument"),
        (["scoer"], "No such command 'scoer'"),
        (["train", "zona", "--data", "d", "--out", "o"], "paper 'zona' is unknown; choose one of"),
        (
            ["train", "zona_vgg13", "--model", "x", "--data", "d", "--out", "o"],
            "--model x: zona_vgg13 has no such model; choose one of",
        ),
        (
            ["train", "zona_vgg13", "--data", "d", "--out", "o", "--set", "epocs=3"],
            "unknown key 'epocs'; valid keys: model,",
        ),
        (
            ["train", "zona_vgg13", "--data", "/nowhere", "--out", "o", "--workers", "2"],
            "/nowhere: no such folder",
        ),
        (["ingest", "/nowhere", "--out", "o"], "/nowhere: no such folder"),
        (["score", "/nowhere", "--checkpoint", "c", "--out", "o"], "c: no checkpoint here"),
        (["data", "synth", "--out", "o", "--patients", "0", "--crops", "1"], "patients is 0"),
        (
            ["data", "synth", "--out", "o", "--patients", "1", "--crops", "x"],
            "Invalid value for '--crops'",
        ),
        (["report", "/nowhere"], "/nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(arguments, message, capfd, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fertiray"])
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capfd.readouterr()
    assert ended.value.code == 2
    assert message in err
    assert err.count("\n") == 1
    assert out == ""


def test_a_mistake_ends_the_process_with_2():
    done = fertiray("train", "zona_vgg13", "--data", "d", "--out", "o", "--set", "epocs=3")
    assert done.returncode == 2
    assert done.stderr.startswith("fertiray: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_from_fields_to_a_verdict_by_commands_alone(tmp_path: Path):
    """Synthetic fields, labelled heads, training, one command for a cohort, and again."""
    t = str(tmp_path)
    drawn = document(
        fertiray(
            *("data", "synth", "--out", f"{t}/train", "--patients", "5", "--crops", "40"),
            *("--as", "fields", "--fraction", "0.5", "--seed", "1", "--json"),
        )
    )
    assert [p["truth_bound_fraction"] for p in drawn["patients"]] == [0.5] * 5
    cut = document(
        fertiray("segment", f"{t}/train", "--out", f"{t}/heads", "--labels", "heads", "--json")
    )
    assert cut["labelled"] >= 190
    trained = document(
        fertiray(
            *("train", "zona_vgg13", "--model", "basic_cnn", "--data", f"{t}/heads"),
            *("--out", f"{t}/ckpt", "--set", "epochs=3", "--set", "batch_size=16", "--json"),
        )
    )
    assert trained["checkpoint"] == f"{t}/ckpt"
    assert trained["metrics"]["roc_auc"] > 0.6
    document(
        fertiray(
            *("data", "synth", "--out", f"{t}/fields", "--patients", "2", "--crops", "30"),
            *("--as", "fields", "--seed", "2", "--json"),
        )
    )
    run = ["run", f"{t}/fields", "--checkpoint", f"{t}/ckpt", "--out", f"{t}/run", "--local"]
    first = document(fertiray(*run, "--json"))
    assert first["rows_in"] == first["crops"] == first["scored"] + first["rejected"]
    assert first["patients"] == 2
    assert Path(first["report"]).is_file()
    assert first["overlays"]["pictures"] == first["fields"]
    again = document(fertiray(*run, "--json"))
    assert again["resumed"] == again["rows_in"] == first["rows_in"]
    other = document(
        fertiray(*run[:-2], f"{t}/run2", "--local", "--verdict-on", "fraction", "--json")
    )
    assert other["scored"] == first["scored"]
