"""How torch's threads wait for each other, as the OpenMP library itself tells it."""

import os
import subprocess
import sys

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' OpenMP tells it otherwise")
@pytest.mark.parametrize(("own", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_sleep_unless_the_user_says_otherwise(own, found):
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    if own:
        environment["OMP_WAIT_POLICY"] = own
    done = subprocess.run(
        [sys.executable, "-c", "import fertiray.training.fit"],
        capture_output=True,
        text=True,
        env={**environment, "OMP_DISPLAY_ENV": "TRUE"},
        check=True,
    )
    told = [line for line in done.stderr.splitlines() if "OMP_WAIT_POLICY" in line]
    assert told, done.stderr
    assert all(f"'{found}'" in line for line in told), done.stderr
