"""``fertiray submit``: the same commands as Ray jobs on a cluster, with logs and exit code."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urlsplit

import typer
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

import fertiray
from fertiray import console, storage
from fertiray.errors import InputError
from fertiray.interrupts import INTERRUPTED

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
STOP_S = 30  # seconds that a job may take to end
AGENT_S = 60  # seconds that a new cluster may take until it accepts jobs
PATH_FLAGS = ("--out", "--checkpoint", "--data", "--split", "--config", "--held-out", "--figures")
PATH_SETTINGS = ("initial", "teacher")  # --set KEY=CHECKPOINT
PATHS_FIRST = ("score", "run", "evaluate")  # commands whose plain arguments are paths


def submit(
    verb: str,
    arguments: Sequence[str],
    *,
    address: str | None = None,
    wait: bool = True,
    python: str | None = None,
    logs: TextIO | None = None,
) -> dict[str, Any]:
    """Runs ``fertiray VERB ARGUMENTS`` as a job on a Ray cluster.

    Ctrl-C while it waits asks whether to stop the job too. Only this package travels with the job;
    data is named by path or URI and must be reachable from the cluster. Local paths are made
    absolute, because a job runs in a folder of its own. Token authentication is Ray's: set
    ``RAY_AUTH_MODE=token`` as the cluster does.

    Args:
        verb: the command.
        arguments: its arguments.
        address: the cluster's dashboard; ``RAY_API_SERVER_ADDRESS`` or this machine by default.
        wait: stream the logs and wait for the end.
        python: the cluster's interpreter with this project's packages; by default this very one
            where the cluster is this machine, else ``python``.
        logs: where the job's output goes; None for stderr.

    Returns:
        ``job_id``, ``status`` and ``exit_code`` (None while it runs, 130 where it was stopped).

    Raises:
        InputError: no cluster answers there, or it refuses the token.
    """
    where = address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS
    here = urlsplit(where).hostname in {"127.0.0.1", "localhost", "::1"}
    interpreter = python or (sys.executable if here else "python")
    located = absolute_paths(arguments, plain=verb in PATHS_FIRST)
    command = [interpreter, "-m", "fertiray", verb, *located]
    with tempfile.TemporaryDirectory(prefix="fertiray-job-") as folder:
        package = Path(fertiray.__file__).parent
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(package, Path(folder) / "fertiray", ignore=ignored)
        try:
            client = JobSubmissionClient(where)
            job_id = _submit(client, shlex.join(command), folder)
        except (AuthenticationError, ConnectionError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"--address {where}: {reason}; start a cluster with ray start --head, and set"
                " RAY_AUTH_MODE=token and its token where it asks for one"
            ) from error
    if not wait:
        return _going_on(client, job_id)
    try:
        asyncio.run(_stream(client, job_id, logs or sys.stderr))
    except KeyboardInterrupt:
        if not _is_to_stop(job_id):
            return _going_on(client, job_id)
        _stop(client, job_id)
    details = client.get_job_info(job_id)
    if details.status == JobStatus.STOPPED:
        return {"job_id": job_id, "status": str(details.status), "exit_code": INTERRUPTED}
    code = details.driver_exit_code
    failed = 0 if details.status == JobStatus.SUCCEEDED else 1
    return {
        "job_id": job_id,
        "status": str(details.status),
        "exit_code": failed if code is None else code,
    }


def _submit(client: JobSubmissionClient, entrypoint: str, folder: str) -> str:
    """Submits, and waits for the job agent of a cluster that has only just been started."""
    give_up = time.monotonic() + AGENT_S
    while True:
        try:
            return str(
                client.submit_job(entrypoint=entrypoint, runtime_env={"working_dir": folder})
            )
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > give_up:
                raise
            time.sleep(1)


def _going_on(client: JobSubmissionClient, job_id: str) -> dict[str, Any]:
    return {"job_id": job_id, "status": str(client.get_job_status(job_id)), "exit_code": None}


def _is_to_stop(job_id: str) -> bool:
    """Asks whoever pressed Ctrl-C; a job nobody can be asked about goes on."""
    if sys.stdin.isatty() and typer.confirm(f"Stop job {job_id} on the cluster too?", err=True):
        return True
    console.notices.print(
        f"job {job_id} goes on; ray job logs --follow {job_id} shows it, ray job stop {job_id}"
        " ends it"
    )
    return False


def _stop(client: JobSubmissionClient, job_id: str) -> None:
    client.stop_job(job_id)
    give_up = time.monotonic() + STOP_S
    while not client.get_job_status(job_id).is_terminal() and time.monotonic() < give_up:
        time.sleep(0.5)


async def _stream(client: JobSubmissionClient, job_id: str, logs: TextIO) -> None:
    async for lines in client.tail_job_logs(job_id):
        logs.write(lines)
        logs.flush()


def absolute_paths(arguments: Sequence[str], *, plain: bool = True) -> list[str]:
    """The arguments with local paths made absolute; URIs and everything else stay.

    A path is what follows a flag that takes one, a checkpoint in ``--set``, or any other argument
    that exists here.

    Args:
        arguments: of a command.
        plain: whether arguments without a flag are paths; the key of a paper is not.
    """
    result: list[str] = []
    for place, argument in enumerate(arguments):
        before = arguments[place - 1] if place else ""
        flag, equals, value = argument.partition("=")
        if before == "--set":
            argument = _located(flag, value) if flag in PATH_SETTINGS else argument
        elif flag == "--set" and value.partition("=")[0] in PATH_SETTINGS:
            argument = f"--set={_located(*value.split('=', 1))}" if "=" in value else argument
        elif equals and flag in PATH_FLAGS:
            argument = _located(flag, value)
        elif argument.startswith("-") or storage.is_remote(argument):
            pass
        elif before in PATH_FLAGS or (plain and Path(argument).exists()):
            argument = str(Path(argument).absolute())
        result.append(argument)
    return result


def _located(key: str, value: str) -> str:
    """``KEY=VALUE`` with a local path made absolute; ``null`` is none."""
    if value in {"", "null"} or storage.is_remote(value):
        return f"{key}={value}"
    return f"{key}={Path(value).absolute()}"
