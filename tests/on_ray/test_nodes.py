"""Two nodes that share nothing but S3 do what one process does, also where one of them dies."""

import io
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import cv2
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from fertiray import checkpoint, config, storage
from fertiray.data.ingest import ingest
from fertiray.data.synthetic import synth_crops
from fertiray.papers import PAPERS
from fertiray.scoring.run import score
from fertiray.scoring.shards import ScoringJob, score_locally
from fertiray.training.train import train

pytestmark = [pytest.mark.ray, pytest.mark.slow]

MSRES = [
    *("batch_size=8", "optimizer=sgd", "lr=1e-4", "schedule=constant", "preprocessing.size=32"),
    *('model_args={"width":0.25}', "epochs=6", "validation=0.2", "test=0.2"),
]


@dataclass
class Nodes:
    """Two nodes; see ``two_nodes.py``."""

    address: str
    environment: dict[str, str]
    stdin: IO[str]
    stdout: IO[str]

    def tell(self, what: str) -> None:
        self.stdin.write(what + "\n")
        self.stdin.flush()
        assert self.stdout.readline() == "done\n"


@pytest.fixture
def nodes(s3_server, tmp_path) -> Iterator[Nodes]:
    yield from started(tmp_path)


@pytest.fixture
def growing(s3_server, tmp_path) -> Iterator[Nodes]:
    yield from started(tmp_path, "growing")


def started(tmp_path: Path, *arguments: str) -> Iterator[Nodes]:
    token = tmp_path / "token"
    token.write_text(secrets.token_hex(32))
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        # A killed node is noticed within seconds rather than half a minute.
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_failure_threshold": "4",
    }
    with (tmp_path / "nodes.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("two_nodes.py"), *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert process.stdin
        assert process.stdout
        address = process.stdout.readline().strip()
        assert address, (tmp_path / "nodes.log").read_text()
        yield Nodes(address, environment, process.stdin, process.stdout)
        process.stdin.close()
        process.wait(60)


@contextmanager
def command(nodes: Nodes, folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """``fertiray ARGUMENTS --address ... --json`` while it runs, from a folder of its own."""
    with (folder / "command.log").open("w") as log:
        yield subprocess.Popen(
            [sys.executable, "-m", "fertiray", *arguments, "--address", nodes.address, "--json"],
            cwd=folder,
            env=nodes.environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )


def answer(process: subprocess.Popen[str], folder: Path) -> dict:
    out, _ = process.communicate(timeout=400)
    assert process.returncode == 0, (folder / "command.log").read_text()
    return json.loads(out)


def wait_until(reached, process: subprocess.Popen[str]) -> None:
    give_up = time.monotonic() + 300
    while not reached():
        assert process.poll() is None, "it ended before"
        assert time.monotonic() < give_up
        time.sleep(0.1)


def small_row_groups(source: Path, place: str) -> None:
    """A crop store on S3 with row groups of 64 crops, so that there are many shards."""
    for file in sorted(source.glob("part-*.parquet")):
        buffer = io.BytesIO()
        pq.write_table(pq.read_table(file), buffer, row_group_size=64)
        storage.write_bytes(storage.join(place, file.name), buffer.getvalue())


def rows(run: str, part: str) -> pl.DataFrame:
    files = storage.list_files(storage.join(run, part), ".parquet")
    frames = [pl.read_parquet(storage.read_bytes(file)) for file in files]
    return pl.concat(frames).sort("crop_id")


def cohort_and_model(crops: int, zona_checkpoint: str, s3: str, folder: Path) -> None:
    """``store`` and ``model`` in a bucket."""
    synth_crops(folder / "data", patients=3, crops=crops, seed=21)
    for path in sorted((folder / "data").rglob("*.png"))[::300]:
        path.write_bytes(path.read_bytes()[:100])
    ingest(str(folder / "data"), str(folder / "store"))
    small_row_groups(folder / "store", f"{s3}/store")
    for file in Path(zona_checkpoint).iterdir():
        if file.is_file():
            storage.write_bytes(f"{s3}/model/{file.name}", file.read_bytes())


@pytest.mark.parametrize("kill", [False, True])
def test_scoring_on_two_nodes(kill, nodes, zona_checkpoint, s3, tmp_path):
    cohort_and_model(1200, zona_checkpoint, s3, tmp_path)
    job = ScoringJob(f"{s3}/store", (f"{s3}/model",), f"{s3}/alone", engine="eager")
    alone = score(job, score_locally, workers=1)

    arguments = ["score", f"{s3}/store", "--checkpoint", f"{s3}/model", "--out", f"{s3}/two"]
    with command(nodes, tmp_path, *arguments, "--engine", "eager", "--workers", "2") as process:
        if kill:
            done = f"{s3}/two/scores"
            wait_until(lambda: len(storage.list_files(done, ".parquet")) >= 4, process)
            nodes.tell("kill")
        two = answer(process, tmp_path)
    counts = ("rows_in", "scored", "rejected", "patients")
    assert {key: two[key] for key in counts} == {key: alone[key] for key in counts}
    for part in ("scores", "rejects"):
        assert rows(f"{s3}/two", part).equals(rows(f"{s3}/alone", part))
    for table in ("patients", "slides"):
        ours, theirs = (
            pl.read_parquet(storage.read_bytes(f"{s3}/{run}/{table}.parquet"))
            for run in ("two", "alone")
        )
        assert ours.equals(theirs)
    shards = pl.read_parquet(storage.read_bytes(f"{s3}/two/shards.parquet"))
    assert shards["worker"].n_unique() >= 2  # one CPU a node: they were on both


def test_scoring_waits_for_gpu_nodes_that_are_to_come(growing, zona_checkpoint, s3, tmp_path):
    cohort_and_model(300, zona_checkpoint, s3, tmp_path)
    growing.environment["FERTIRAY_GROWS_TO"] = '{"CPU": 2, "GPU": 2}'
    arguments = ["score", f"{s3}/store", "--checkpoint", f"{s3}/model", "--out", f"{s3}/run"]
    with command(growing, tmp_path, *arguments, "--engine", "eager", "--workers", "2") as process:
        wait_until(lambda: "0/900 crops" in (tmp_path / "command.log").read_text(), process)
        growing.tell("add")
        growing.tell("add")
        assert answer(process, tmp_path)["scored"] == 897
    shards = pl.read_parquet(storage.read_bytes(f"{s3}/run/shards.parquet"))
    assert shards["worker"].n_unique() == 2  # a GPU each


@pytest.mark.parametrize("kill", [False, True])
def test_training_on_two_nodes(kill, nodes, s3, tmp_path):
    rng = np.random.default_rng(7)
    for number in range(36):
        image = cv2.resize(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8), (48, 48))
        image = (image * (0.5 + 0.5 * (number % 2))).astype(np.uint8)
        place = f"{('poor', 'good')[number % 2]}/{number:03d}.png"
        storage.write_bytes(f"{s3}/data/{place}", cv2.imencode(".png", image)[1].tobytes())
    recipe = config.override(PAPERS["embryo_msres"].config(), MSRES)
    one = train(PAPERS["embryo_msres"], recipe, f"{s3}/data", f"{s3}/one")

    settings = [f"--set={setting}" for setting in MSRES]
    arguments = ["train", "embryo_msres", "--data", f"{s3}/data", "--out", f"{s3}/two", *settings]
    with command(nodes, tmp_path, *arguments, "--workers", "2") as process:
        if kill:
            log = tmp_path / "command.log"
            wait_until(lambda: "epoch 2/6" in log.read_text(), process)
            nodes.tell("kill")
            nodes.tell("add")  # as an autoscaler would
        two = answer(process, tmp_path)
    assert len(two["history"]) == 6
    for ours, theirs in zip(two["history"], one["history"], strict=True):
        np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=5e-3)
    _, meta = checkpoint.load(f"{s3}/two")
    assert meta.provenance["workers"] == 2
    if kill:
        assert "a worker was lost; going on from the last epoch" in log.read_text()
