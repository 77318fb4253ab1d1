"""The service's benchmark measures all that its table shows."""

import json
import os
import subprocess
import sys

import pytest

from fertiray.evaluation.bench_tables import SERVE_MEASURES, measures


@pytest.mark.slow
def test_a_small_service_is_measured():
    command = [sys.executable, "-m", "fertiray", "bench", "serve", "--model", "basic_cnn"]
    command += ["--size", "32", "--crops", "256", "--seconds", "2", "--rounds", "1"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [*command, "--workers", "1", "--engine", "eager", "--json"],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    values = json.loads(done.stdout)
    assert values["interactive_engine"] == "eager"
    assert values["half_load"]["errors"] == 0
    assert values["rate"] > 0
    assert values["ratio_to_score"] > 0
    assert values["upload"]["state"] == "done"
    assert len(measures(values, SERVE_MEASURES)) == len(SERVE_MEASURES)
