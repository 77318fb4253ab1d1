"""``fertiray submit`` on a cluster of its own with token authentication on."""

import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fertiray.data.ingest import ingest
from fertiray.data.synthetic import synth_crops
from fertiray.on_ray.submit import absolute_paths

RAY = str(Path(sys.executable).with_name("ray"))


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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> Iterator[tuple[str, dict[str, str]]]:
    """A Ray head on loopback that wants a token; yields the jobs address and an environment."""
    token = tmp_path_factory.mktemp("token") / "token"
    port, dashboard = free_port(), free_port()
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    token.write_text(secrets.token_hex(32))
    start = [
        *(RAY, "start", "--head", "--node-ip-address=127.0.0.1", f"--port={port}"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--num-cpus=2"),
        *("--ray-client-server-port", str(free_port())),
        # The default port may be taken by the suite's own cluster; without an agent, no jobs.
        *("--dashboard-agent-listen-port", str(free_port())),
        *("--temp-dir", str(tmp_path_factory.mktemp("ray", numbered=False)), "--block"),
    ]
    with (tmp_path_factory.mktemp("log") / "head.log").open("wb") as log:
        process = subprocess.Popen(start, env=environment, stdout=log, stderr=log)
        try:
            _wait_for(dashboard, process)
            yield f"http://127.0.0.1:{dashboard}", environment
        finally:
            process.terminate()
            process.wait(60)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    import time

    for _ in range(240):
        assert process.poll() is None, "the Ray head ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise AssertionError("the Ray head's dashboard did not open in two minutes")


def submit(head, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    address, environment = head
    command = [sys.executable, "-m", "fertiray", "submit", "--address", address, "--json"]
    return subprocess.run(
        [*command, *arguments], env={**environment, **changes}, capture_output=True, text=True
    )


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
