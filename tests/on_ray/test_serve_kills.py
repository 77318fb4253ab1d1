"""Killed with -9 at every level while a job runs: replicas, controller, the whole node."""

import json
import tarfile
import threading
import time
from pathlib import Path

import polars as pl
import pytest

from fertiray.bench.chaos.service import Service
from fertiray.client import Client
from fertiray.data.ingest import ingest
from fertiray.data.synthetic import synth_crops
from fertiray.scoring.engine import EAGER
from fertiray.scoring.run import score
from fertiray.scoring.shards import ScoringJob, score_locally

pytestmark = [pytest.mark.ray, pytest.mark.slow]

COPIES = 12  # of a small cohort: twelve shards
PATIENTS, CROPS = 2, 512


@pytest.fixture
def service(tmp_path, zona_checkpoint):
    made = Service(tmp_path, zona_checkpoint, "--workers", "2")
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """12,288 crops: a small cohort under many patients' names."""
    folder = tmp_path_factory.mktemp("cohort")
    synth_crops(folder / "data", patients=PATIENTS, crops=CROPS, seed=41)
    for path in sorted((folder / "data").rglob("*.png"))[::100]:
        path.write_bytes(path.read_bytes()[:100])
    with tarfile.open(folder / "cohort.tar", "w") as made:
        for copy in range(COPIES):
            for patient in sorted(f for f in (folder / "data").iterdir() if f.is_dir()):
                made.add(patient, f"{patient.name}-{copy:02d}")
    return folder / "cohort.tar"


@pytest.fixture(scope="module")
def expected(archive, zona_checkpoint, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("expected")
    with tarfile.open(archive) as opened:
        opened.extractall(folder / "tree", filter="data")
    ingest(str(folder / "tree"), str(folder / "store"))
    job = ScoringJob(str(folder / "store"), (zona_checkpoint,), str(folder / "run"), engine=EAGER)
    score(job, score_locally, workers=2)
    return folder / "run"


def rows(files) -> pl.DataFrame:
    return pl.concat(pl.read_parquet(f) for f in sorted(files)).sort("crop_id")


def until(client: Client, job: str, condition, seconds: float = 300) -> dict:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        state = client.job(job)
        if condition(state):
            return state
        time.sleep(0.1)
    raise AssertionError(f"waited {seconds} s for a job that is {state}")


def test_kill_9_of_every_part_and_of_the_node_loses_and_duplicates_nothing(
    service, archive, expected, tmp_path
):
    client = service.client
    job = client.submit(archive, key="once")["id"]
    total = PATIENTS * CROPS * COPIES
    picture = tmp_path / "head.png"
    with tarfile.open(archive) as opened:
        name = next(m for m in opened if m.isfile() and m.size > 1000)
        picture.write_bytes(opened.extractfile(name).read())
    answered, stop = [], threading.Event()

    def ask():
        """Interactive requests meanwhile: whatever dies, the client gets its answer."""
        while not stop.is_set():
            answered.append(client.score([picture])[0]["label"])
            time.sleep(0.1)

    asking = threading.Thread(target=ask)
    asking.start()
    until(client, job, lambda state: state["done"] > 0)
    for title in ("fertiray:Shards", "fertiray:Jobs", "ServeController", "fertiray:Door"):
        before = client.job(job)["done"]
        service.kill(title)
        until(client, job, lambda s, b=before: s["done"] > b or s["state"] == "done")
        time.sleep(1)
    stop.set()
    asking.join()
    assert set(answered) == {answered[0]}
    second = client.submit(archive, label="second")["id"]
    assert client.job(job)["state"] in ("running", "done")
    until(client, second, lambda state: state["done"] > 0 and state["stage"] == "scoring")
    third = client.submit(archive, label="third")["id"]  # accepted, not begun

    files = {f: f.stat().st_mtime_ns for f in scores(service, second)}
    assert files
    service.kill_all()
    service.start()
    client = service.client
    assert {known["id"] for known in client.jobs()} == {job, second, third}
    assert client.submit(archive, key="once")["id"] == job  # the key outlives the node too
    for one in (job, second, third):
        ended = client.wait(one)
        assert ended["state"] == "done", ended
        assert ended["counts"]["rows_in"] == ended["done"] == total
        for table in ("scores", "rejects"):
            (tmp_path / "t.parquet").write_bytes(client.result(one, "parquet", table))
            own = pl.read_parquet(tmp_path / "t.parquet")
            assert own["crop_id"].n_unique() == len(own)
            assert own.equals(rows((expected / table).glob("*.parquet")))
        (tmp_path / "t.parquet").write_bytes(client.result(one, "parquet"))
        patients = pl.read_parquet(tmp_path / "t.parquet")
        assert patients.equals(pl.read_parquet(expected / "patients.parquet"))
    # What was done before the node died was not done again.
    assert {f: f.stat().st_mtime_ns for f in files} == files
    lines = [
        json.loads(line)
        for file in (service.folder / "state" / "audit").iterdir()
        for line in file.read_text().splitlines()
    ]
    ends = [line["job"] for line in lines if line["event"] == "job"]
    assert sorted(ends) == sorted([job, second, third])  # each ended once


def scores(service: Service, job: str) -> list[Path]:
    return sorted((service.folder / "state" / "jobs" / job / "run").glob("*/scores/*.parquet"))
