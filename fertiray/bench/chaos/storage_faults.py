"""Scoring from and to an S3 that misbehaves: nothing is lost, and what cannot go on says so.

An S3 server of our own (moto) behind :class:`~fertiray.bench.chaos.faulty_s3.FaultyS3`. Every run
is the command ``fertiray score``, on Ray or in a process of its own.

1. A share of all requests is spoilt. The run's rows must be those of an undisturbed local run, bit
   for bit.
2. An outage in the middle of a run, a part of the store that vanishes after it was listed, expired
   credentials, a part cut short, a part of other columns: the command must end with code 2 and one
   line that names the place, in bounded time. After the first two, the same command, with the
   storage as it was, must finish the run with the same rows.
"""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from fertiray.bench import material
from fertiray.bench.chaos.faulty_s3 import FaultyS3
from fertiray.data import crops
from fertiray.errors import InputError

PARTS = 16
ROWS = 24  # crops of a part
SPOILT = 37  # every so many-th crop is no image
BUCKET = "chaos"
LIMIT_S = 300.0  # a command that has not ended by then hangs
STOP_S = 120.0  # a command without storage must have ended


@dataclass(frozen=True)
class _Ended:
    """How a command ended: its code, JSON answer, last line of complaint, and seconds it took.

    The seconds count from the trouble where there was some on the way.
    """

    code: int | None
    values: dict[str, Any]
    complaint: str
    traceback: bool
    seconds: float


@dataclass(frozen=True)
class _Case:
    """What all runs have in common: the network, the S3 server's own client, and the proxy."""

    checkpoint: str
    client: Any
    proxy: FaultyS3
    on_ray: bool

    def start(self, store: str, out: str) -> subprocess.Popen[str]:
        """Starts to score a store, which goes through the proxy where it lies on S3."""
        environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith("AWS_")},
            **_ACCESS,
            "AWS_ENDPOINT_URL": self.proxy.endpoint,
        }
        command = [sys.executable, "-m", "fertiray", "score", store, "--out", out, "--json"]
        options = ["--checkpoint", self.checkpoint, "--engine", "eager", "--device", "cpu"]
        return subprocess.Popen(
            [*command, *options, "--workers", "2", *([] if self.on_ray else ["--local"])],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def score(self, store: str, out: str, *, meanwhile: Callable[[], None] | None = None) -> _Ended:
        """Scores a store; ``meanwhile`` is called once the scores of three parts are written."""
        started = time.monotonic()
        with self.start(store, out) as process:
            if meanwhile is not None:
                while process.poll() is None and self._written(out) < 3:
                    time.sleep(0.01)
                meanwhile()
                started = time.monotonic()
            try:
                answer, said = process.communicate(timeout=LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                return _Ended(None, {}, "", False, time.monotonic() - started)
        complaints = [line for line in said.splitlines() if line.startswith("fertiray: ")]
        return _Ended(
            process.returncode,
            json.loads(answer) if process.returncode == 0 else {},
            complaints[-1].replace(self.proxy.endpoint, "ENDPOINT") if complaints else "",
            "Traceback" in said,
            time.monotonic() - started,
        )

    def rows(self, run: str, table: str) -> pl.DataFrame:
        """All rows of a run's scores or rejects on the server itself, in order."""
        prefix = f"{run.removeprefix(f's3://{BUCKET}/')}/{table}/"
        found = self.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        parts = [self.client.get_object(Bucket=BUCKET, Key=entry["Key"]) for entry in found]
        return _sorted(pl.read_parquet(io.BytesIO(part["Body"].read())) for part in parts)

    def _written(self, out: str) -> int:
        scores = f"{out.removeprefix('s3:/')}/scores/"
        log = list(self.proxy.log)
        return sum(entry.method == "PUT" and entry.path.startswith(scores) for entry in log)


_ACCESS = {
    "AWS_ACCESS_KEY_ID": "chaos",
    "AWS_SECRET_ACCESS_KEY": "chaos",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def storage_faults(
    folder: Path,
    *,
    checkpoint: str | None = None,
    faults: float = 0.1,
    on_ray: bool = False,
    seed: int = 0,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Scores a small store on a faulty S3 and compares with an undisturbed local run.

    Args:
        folder: where store, network and the local run go.
        checkpoint: the network to score with; by default one is trained for a moment.
        faults: share of the requests that are spoilt in the first part.
        on_ray: the commands run on a Ray of their own.
        seed: decides which.
        say: told what is being done.

    Returns:
        ``faulty``: requests, faults served by kind, retries, seconds, and whether the rows are
        equal to the local run's; ``outage``, ``vanished``, ``expired``, ``truncated``,
        ``other_columns``: exit code, line, seconds, and of the first two the same of the second
        call; ``lost``, ``duplicated``, ``crashes`` and ``hangs`` over all of them.

    Raises:
        InputError: moto is not installed.
    """
    say("drawing crops and a local run without disturbance")
    checkpoint = checkpoint or material.network(folder / "network", "basic_cnn", size=64)
    store = _store(folder / "store", material.drawn(folder / "drawn"))
    with empty_server() as (client, target), FaultyS3(target, seed=seed) as proxy:
        case = _Case(checkpoint, client, proxy, on_ray)
        _upload(client, store, "store")
        local = case.score(str(store), str(folder / "run"))
        if local.code != 0:
            raise InputError(f"{folder}: the local run fails ({local.complaint}); run `make test`")
        expected = {
            table: _sorted(map(pl.read_parquet, sorted((folder / "run" / table).iterdir())))
            for table in ("scores", "rejects")
        }
        say(f"scoring from and to S3, {faults:.0%} of the requests spoilt")
        proxy.faults = faults
        faulty = {
            **_finished(case, case.score(_at("store"), _at("faulty")), "faulty", expected),
            "requests": len(proxy.log),
            "faults": proxy.faults_served(),
            "retries": proxy.retries(),
            "undisturbed_s": round(local.seconds, 1),
        }
        proxy.faults = 0.0
        found = {
            "faulty": faulty,
            **_interrupted(case, store, expected, say),
            **_refused(case, store, say),
        }
    ends = [end for value in found.values() for end in (value, value.get("again")) if end]
    return {
        "crops": PARTS * ROWS,
        "on_ray": on_ray,
        "share": faults,
        **found,
        **{key: sum(end.get(key, 0) for end in ends) for key in ("lost", "duplicated")},
        **{key: sum(end[key] for end in ends) for key in ("crashes", "hangs")},
    }


def _interrupted(
    case: _Case, store: Path, expected: dict[str, pl.DataFrame], say: Callable[[str], None]
) -> dict[str, Any]:
    """What happens in the middle of a run and is mended before the same command is run again."""
    last = crops.part_name(PARTS - 1)

    def outage() -> None:
        case.proxy.always = "drop"

    def vanish() -> None:
        case.client.delete_object(Bucket=BUCKET, Key=f"store/{last}")

    found = {}
    for name, happens in (("outage", outage), ("vanished", vanish)):
        say(f"{name} in the middle of a run, and the same command again")
        stopped = _stopped(case.score(_at("store"), _at(name), meanwhile=happens))
        case.proxy.always = None
        _upload(case.client, store, "store", [last])
        ended = case.score(_at("store"), _at(name))
        found[name] = {
            **stopped,
            "again": {
                **_finished(case, ended, name, expected),
                "resumed": ended.values.get("resumed"),
            },
        }
    return found


def _refused(case: _Case, store: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """What ends a command before it has begun."""
    part = crops.part_name(3)
    data = (store / part).read_bytes()
    other = io.BytesIO()
    pl.read_parquet(data).drop("image").write_parquet(other)
    found = {}
    for name, content in (
        ("expired", data),
        ("truncated", data[: len(data) // 2]),
        ("other_columns", other.getvalue()),
    ):
        say(f"{name.replace('_', ' ')}: a clear end")
        case.client.put_object(Bucket=BUCKET, Key=f"store/{part}", Body=content)
        case.proxy.always = "expired" if name == "expired" else None
        found[name] = _stopped(case.score(_at("store"), _at(name)))
        case.proxy.always = None
    return found


def _stopped(ended: _Ended) -> dict[str, Any]:
    """Figures of a command that should have ended with one line and code 2."""
    hung = ended.code is None or ended.seconds > STOP_S
    clear = ended.code == 2 and not ended.traceback and "s3://" in ended.complaint
    return {
        "exit": ended.code,
        "line": ended.complaint,
        "seconds": round(ended.seconds, 1),
        "crashes": int(not hung and not clear),
        "hangs": int(hung),
    }


def _finished(
    case: _Case, ended: _Ended, run: str, expected: dict[str, pl.DataFrame]
) -> dict[str, Any]:
    """Figures of a command that should have ended well, and of its rows."""
    there = {table: case.rows(_at(run), table) for table in expected}
    ids = pl.concat([table.select("crop_id") for table in there.values()])
    wanted = pl.concat([table.select("crop_id") for table in expected.values()])
    return {
        "exit": ended.code,
        "line": ended.complaint,
        "seconds": round(ended.seconds, 1),
        "equal": all(there[table].equals(expected[table]) for table in expected),
        "lost": wanted.join(ids, on="crop_id", how="anti").height,
        "duplicated": ids.height - ids["crop_id"].n_unique(),
        "crashes": int(ended.code not in (0, None)),
        "hangs": int(ended.code is None),
    }


def _at(key: str) -> str:
    return f"s3://{BUCKET}/{key}"


def _sorted(parts: Iterator[pl.DataFrame]) -> pl.DataFrame:
    tables = list(parts)
    return pl.concat(tables).sort("crop_id") if tables else pl.DataFrame({"crop_id": []})


def _store(location: Path, images: Sequence[bytes]) -> Path:
    """A store of many small parts; every :data:`SPOILT`-th crop cannot be decoded."""
    for index in range(PARTS):
        part = crops.PartWriter(str(location), index)
        for number in range(index * ROWS, (index + 1) * ROWS):
            image = images[number % len(images)] if number % SPOILT else b"no image"
            patient = f"P{number % material.PATIENTS}"
            own = crops.crop_id("0" * 16, patient, str(number))
            part.add({"patient_id": patient, "slide_id": "S", "crop_id": own, "image": image})
        part.close()
    return location


def _upload(client: Any, store: Path, key: str, names: Sequence[str] | None = None) -> None:
    for name in names or crops.parts(str(store)):
        client.put_object(Bucket=BUCKET, Key=f"{key}/{name}", Body=(store / name).read_bytes())


@contextmanager
def empty_server() -> Iterator[tuple[Any, str]]:
    """An S3 server with an empty bucket: a client of its own, past the proxy, and its endpoint."""
    try:
        import boto3
        from moto.server import ThreadedMotoServer
    except ImportError as error:
        raise InputError(
            "no S3 server to spoil: moto is missing; install it with `pip install -e .[dev]`"
        ) from error
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it would print every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    try:
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name=_ACCESS["AWS_DEFAULT_REGION"],
            aws_access_key_id=_ACCESS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=_ACCESS["AWS_SECRET_ACCESS_KEY"],
        )
        client.create_bucket(Bucket=BUCKET)
        # moto keeps what servers of the same process held before.
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
            for entry in page.get("Contents", []):
                client.delete_object(Bucket=BUCKET, Key=entry["Key"])
        yield client, endpoint
    finally:
        server.stop()
