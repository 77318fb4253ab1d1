"""``serve deploy jobs/serve.yaml`` on a cluster that wants a token, and again after a change."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from fertiray.bench.chaos.service import free_port
from fertiray.client import Client
from fertiray.data.synthetic import synth_crops
from fertiray.errors import InputError
from fertiray.serving import tokens

SERVE = str(Path(sys.executable).with_name("serve"))
FILE = Path(__file__).parents[2] / "jobs" / "serve.yaml"


@pytest.mark.slow
@pytest.mark.ray
def test_the_file_deploys_and_deploys_again(head, zona_checkpoint, tmp_path):
    address, environment = head
    text, _ = tokens.add(tmp_path / "tokens.json", "clinic-a")
    synth_crops(tmp_path / "data", patients=1, crops=8, seed=3)
    picture = next((tmp_path / "data").rglob("*.png"))
    content = yaml.safe_load(FILE.read_text())
    port = content["http_options"]["port"] = free_port()
    (application,) = content["applications"]
    application["args"] |= {
        "state": str(tmp_path / "state"),
        "tokens": str(tmp_path / "tokens.json"),
        "checkpoints": [zona_checkpoint],
        "workers": 1,
    }
    for deployment in application["deployments"]:  # the head of the tests has two cores
        deployment["ray_actor_options"]["num_cpus"] = 0.25

    def deploy():
        (tmp_path / "serve.yaml").write_text(yaml.safe_dump(content))
        call = [SERVE, "deploy", "--address", address, str(tmp_path / "serve.yaml")]
        done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr

    def until_served():
        give_up = time.monotonic() + 240
        while True:
            try:
                return Client(f"http://127.0.0.1:{port}", text).score([picture])
            except InputError:
                status = [SERVE, "status", "--address", address]
                shown = subprocess.run(status, env=environment, capture_output=True, text=True)
                assert "DEPLOY_FAILED" not in shown.stdout, shown.stdout
                assert time.monotonic() < give_up, shown.stdout
                time.sleep(1)

    try:
        deploy()
        (row,) = until_served()
        assert row["probabilities"]["bound"] + row["probabilities"]["unbound"] == pytest.approx(1)
        application["args"]["jobs_at_once"] = 1
        deploy()
        (again,) = until_served()
        assert again["probabilities"] == pytest.approx(row["probabilities"], abs=1e-6)
        with pytest.raises(InputError, match="401"):
            Client(f"http://127.0.0.1:{port}", "wrong").models()
    finally:
        stop = [SERVE, "shutdown", "-y", "--address", address]
        subprocess.run(stop, env=environment, check=True, capture_output=True)
