"""A Ray head of its own, as ``ray job submit`` finds one."""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fertiray.bench.chaos.service import free_port

RAY = str(Path(sys.executable).with_name("ray"))


@pytest.fixture(scope="module")
def head(request, tmp_path_factory) -> Iterator[tuple[str, dict[str, str]]]:
    """A Ray head on loopback that wants a token; yields the jobs address and an environment.

    A module's ``HEAD_ENVIRONMENT`` is added to the head's own.
    """
    token = tmp_path_factory.mktemp("token") / "token"
    port, dashboard = free_port(), free_port()
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        **getattr(request.module, "HEAD_ENVIRONMENT", {}),
    }
    token.write_text(secrets.token_hex(32))
    start = [
        *(RAY, "start", "--head", "--node-ip-address=127.0.0.1", f"--port={port}"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--num-cpus=2"),
        *("--ray-client-server-port", str(free_port())),
        # The default port may be taken by the suite's own cluster; without an agent, no jobs.
        *("--dashboard-agent-listen-port", str(free_port())),
        *("--temp-dir", str(tmp_path_factory.mktemp("ray", numbered=True)), "--block"),
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
    for _ in range(240):
        assert process.poll() is None, "the Ray head ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise AssertionError("the Ray head's dashboard did not open in two minutes")
