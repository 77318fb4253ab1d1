"""``ray job submit -- python jobs/train.py``, and ``fertiray submit train``, on a real head."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from fertiray import checkpoint
from fertiray.data.synthetic import synth_crops
from fertiray.on_ray.submit import absolute_paths

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
CLASSES = {
    "embryo_msres": ("poor", "good"),
    "sperm_effnet_cbam": ("Normal_Sperm", "Abnormal_Sperm", "Non-Sperm"),
    "sperm_madrnet": ("Normal", "Tapered", "Pyriform", "Amorphous"),
}
TINY = {
    "embryo_msres": ["preprocessing.size=32", 'model_args={"width":0.25}'],
    "blastocyst_memebg": ["preprocessing.size=28", 'model_args={"pretrained":false}'],
    "sperm_effnet_cbam": [
        *("preprocessing.size=32", 'model_args={"pretrained":false}', "freeze_epochs=0"),
    ],
    "sperm_madrnet": [
        "preprocessing.size=32",
        'model_args={"pretrained":false,"backbone":"efficientnet_b0","bilinear":false}',
    ],
    "zona_vgg13": ["preprocessing.size=32"],
}


def blotches(count: int) -> list[np.ndarray]:
    """Images of which no two are alike."""
    rng = np.random.default_rng(5)
    return [
        cv2.resize(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8), (48, 48)) for _ in range(count)
    ]


def labelled(folder: Path, paper: str) -> str:
    """A small set of the paper's classes."""
    folder.mkdir()
    if paper == "zona_vgg13":
        synth_crops(folder, patients=6, crops=8, seed=11, fractions=0.5)
    elif paper == "blastocyst_memebg":
        rows = ["image,EXP,ICM,TE"]
        for number, image in enumerate(blotches(36)):
            cv2.imwrite(str(folder / f"{number}.png"), image)
            rows.append(f"{number}.png,{number % 3},{'AB'[number % 2]},{'BA'[number // 2 % 2]}")
        (folder / "labels.csv").write_text("\n".join(rows))
    else:
        names = CLASSES[paper]
        for number, image in enumerate(blotches(40)):
            (folder / names[number % len(names)]).mkdir(exist_ok=True)
            cv2.imwrite(str(folder / names[number % len(names)] / f"{number}.png"), image)
    return str(folder)


def submit_job(head, paper: str, data: str, out: Path, *more: str):
    address, environment = head
    command = [RAY, "job", "submit", "--address", address, "--working-dir", ".", "--"]
    job = [sys.executable, "jobs/train.py", "--paper", paper, "--data", data, "--out", str(out)]
    settings = [f"--set={setting}" for setting in ("epochs=1", "batch_size=8", *TINY[paper])]
    return subprocess.run(
        [*command, *job, *settings, "--workers", "2", *more],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


def check(done, out: Path, paper: str) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert "epoch 1/1: loss" in done.stdout
    _, meta = checkpoint.load(str(out))
    assert meta.paper == paper
    assert meta.provenance["workers"] == 2
    assert not (out / ".ray").exists()


@pytest.mark.ray
def test_a_training_as_a_job(head, tmp_path):
    out = tmp_path / "zona"
    data = labelled(tmp_path / "data", "zona_vgg13")
    done = submit_job(head, "zona_vgg13", data, out, "--model", "basic_cnn")
    check(done, out, "zona_vgg13")


@pytest.mark.ray
def test_unusable_data_is_one_line_and_exit_code_2(head, tmp_path):
    address, environment = head
    command = [sys.executable, "-m", "fertiray", "submit", "--address", address, "--json", "train"]
    job = ["zona_vgg13", "--data", "nothing", "--out", "out", "--workers", "2"]
    done = subprocess.run(
        [*command, *job], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    result = json.loads(done.stdout)
    assert (result["status"], result["exit_code"]) == ("FAILED", 2)
    assert f"fertiray: {tmp_path}/nothing" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("paper", TINY)
def test_every_paper_as_a_job(head, paper, tmp_path):
    out = tmp_path / paper
    model = ["--model", "basic_cnn"] if paper == "zona_vgg13" else []
    done = submit_job(head, paper, labelled(tmp_path / "data", paper), out, *model)
    check(done, out, paper)


def test_checkpoints_in_settings_and_no_papers_are_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zona_vgg13").mkdir()
    arguments = ["zona_vgg13", "--set", "teacher=t", "--set=initial=i", "--set", "lr=1", "--split"]
    assert absolute_paths([*arguments, "s.json"], plain=False) == [
        "zona_vgg13",
        *("--set", f"teacher={tmp_path}/t", f"--set=initial={tmp_path}/i", "--set", "lr=1"),
        *("--split", f"{tmp_path}/s.json"),
    ]
    free = ["--set", "teacher=null", "--set", "initial=s3://b/c"]
    assert absolute_paths(free, plain=False) == free
