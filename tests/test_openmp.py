"""How torch's threads wait for each other, as the OpenMP library itself tells it."""

import os
import re
import subprocess
import sys

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' OpenMP tells it otherwise")
@pytest.mark.parametrize(("own", "sleeps"), [(None, True), ("ACTIVE", False)])
def test_threads_sleep_unless_the_user_says_otherwise(own, sleeps):
    """Rounds that a waiting thread spins before it sleeps: 300000 where nothing is said."""
    said = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {key: value for key, value in os.environ.items() if key not in said}
    if own:
        environment["OMP_WAIT_POLICY"] = own
    done = subprocess.run(
        [sys.executable, "-c", "import fertiray.training.fit"],
        capture_output=True,
        text=True,
        env={**environment, "OMP_DISPLAY_ENV": "VERBOSE"},
        check=True,
    )
    spins = re.findall("GOMP_SPINCOUNT = '(.+)'", done.stderr)
    assert spins, done.stderr
    assert all((spin == "0") == sleeps for spin in spins), spins
