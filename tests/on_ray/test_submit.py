"""``fertiray submit`` on a cluster of its own with token authentication on."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fertiray.data.ingest import ingest
from fertiray.data.synthetic import synth_crops
from fertiray.on_ray.submit import absolute_paths


def test_paths_are_made_absolute_and_uris_are_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store").mkdir()
    here = str(tmp_path)
    assert absolute_paths(
        ["store", "--checkpoint", "c", "--out=runs/1", "--checkpoint", "s3://b/c", "--workers", "2"]
    ) == [
        f"{here}/store",
        *("--checkpoint", f"{here}/c"),
        f"--out={here}/runs/1",
        *("--checkpoint", "s3://b/c"),
        *("--workers", "2"),
    ]


def submit(head, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    address, environment = head
    command = [sys.executable, "-m", "fertiray", "submit", "--address", address, "--json"]
    called = [*command, *arguments]
    try:
        return subprocess.run(
            called, env={**environment, **changes}, capture_output=True, text=True, timeout=300
        )
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"no end after 300 s: {error.stdout!r}, {error.stderr!r}") from None


@pytest.mark.ray
def test_score_as_a_job(head, zona_checkpoint, tmp_path):
    synth_crops(tmp_path / "data", patients=2, crops=60, seed=3)
    ingest(str(tmp_path / "data"), str(tmp_path / "store"))
    out = tmp_path / "run"
    done = submit(
        head,
        *("score", str(tmp_path / "store"), "--checkpoint", zona_checkpoint),
        *("--out", str(out), "--workers", "1"),
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["status"], result["exit_code"]) == ("SUCCEEDED", 0)
    assert "scoring: 120/120 crops" in done.stderr  # the job's own output, streamed
    assert json.loads((out / "run.json").read_text())["counts"]["scored"] == 120


@pytest.mark.ray
def test_the_jobs_exit_code_comes_back(head, zona_checkpoint, tmp_path):
    done = submit(
        head,
        *("score", str(tmp_path / "nothing"), "--checkpoint", zona_checkpoint),
        *("--out", str(tmp_path / "run")),
    )
    assert done.returncode == 2
    assert json.loads(done.stdout)["status"] == "FAILED"
    assert "no crop store there" in done.stderr


@pytest.mark.ray
def test_without_the_token_nothing_runs(head, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.write_text("0" * 64)
    done = submit(head, "score", "x", RAY_AUTH_TOKEN_PATH=str(wrong))
    assert done.returncode == 2
    assert "fertiray: --address" in done.stderr
    assert "token" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.ray
@pytest.mark.parametrize(("answer", "status", "code"), [("y", "STOPPED", 130), ("n", "RUNNING", 0)])
def test_ctrl_c_asks_whether_to_stop_the_job(head, tmp_path, answer, status, code):
    address, environment = head
    synth_crops(tmp_path / "data", patients=6, crops=8, seed=3, fractions=0.5)
    train = ["train", "zona_vgg13", "--model", "basic_cnn", "--data", str(tmp_path / "data")]
    long = ["--out", str(tmp_path / "out"), "--set=epochs=100000", "--set=preprocessing.size=32"]
    command = [sys.executable, "-m", "fertiray", "submit", "--address", address, "--json"]
    terminal, other_end = pty.openpty()
    with (tmp_path / "log").open("w+b") as log:
        client = subprocess.Popen(
            [*command, *train, *long],
            env=environment,
            stdin=other_end,
            stdout=subprocess.PIPE,
            stderr=log,
        )

        def said() -> str:
            return (tmp_path / "log").read_text()

        give_up = time.monotonic() + 120
        while "epoch 2/" not in said():
            assert client.poll() is None, said()
            assert time.monotonic() < give_up, said()
            time.sleep(0.2)
        client.send_signal(signal.SIGINT)
        while "on the cluster too?" not in said():
            assert time.monotonic() < give_up, said()
            time.sleep(0.2)
        os.write(terminal, f"{answer}\n".encode())
        result = json.loads(client.communicate(timeout=60)[0])
    assert (client.returncode, result["status"]) == (code, status)
    stop = [str(Path(sys.executable).with_name("ray")), "job", "stop", "--address", address]
    subprocess.run([*stop, result["job_id"]], env=environment, check=True, capture_output=True)
