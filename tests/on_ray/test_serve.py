"""The service behind Serve's proxy: the table of ``fertiray score``, models exchanged, overload."""

import dataclasses
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import polars as pl
import pytest

from fertiray import checkpoint
from fertiray.bench.chaos.service import free_port
from fertiray.client import Client
from fertiray.data.ingest import ingest
from fertiray.data.synthetic import synth_crops
from fertiray.errors import InputError
from fertiray.scoring.engine import EAGER
from fertiray.scoring.run import score
from fertiray.scoring.shards import ScoringJob, score_locally
from fertiray.serving import catalogue, tokens
from fertiray.serving.limits import Limits
from fertiray.serving.settings import Settings

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

PATIENTS, CROPS, CORRUPT = 4, 500, 20


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """2,000 crops of four patients, twenty of them corrupt."""
    folder = tmp_path_factory.mktemp("cohort") / "data"
    synth_crops(folder, patients=PATIENTS, crops=CROPS, seed=31)
    victims = sorted(folder.rglob("*.png"))[:: PATIENTS * CROPS // CORRUPT]
    for number, path in enumerate(victims):
        data = path.read_bytes()
        path.write_bytes([b"", data[: len(data) // 2], b"junk" + data[4:]][number % 3])
    return folder


@pytest.fixture(scope="module")
def service(tmp_path_factory, zona_checkpoint, ray_cluster):
    """A service that takes 16 requests at a time, and has replicas for them, as ``jobs/serve.yaml``
    has; yields its settings, address and a token."""
    from ray import serve

    from fertiray.on_ray.serve import APP, build

    state = tmp_path_factory.mktemp("service")
    text, _ = tokens.add(state / "tokens.json", "clinic-a")
    settings = Settings(
        str(state / "state"),
        str(state / "tokens.json"),
        (zona_checkpoint,),
        device="cpu",
        engine=EAGER,
        scorers=1,
        workers=2,
        limits=Limits(requests=16, images=8),
    )
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(build(dataclasses.asdict(settings)), name=APP)
    url = f"http://127.0.0.1:{port}"
    yield settings, url, text
    serve.shutdown()


@pytest.fixture
def client(service) -> Client:
    return Client(service[1], service[2])


def rows(files) -> pl.DataFrame:
    return pl.concat(pl.read_parquet(f) for f in sorted(files)).sort("crop_id")


def test_serve_deploy_can_call_the_builder():
    """``serve deploy`` calls a builder of exactly one parameter, a dictionary without its type."""
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary

    from fertiray.on_ray.serve import build

    with pytest.raises(InputError, match="args: unknown key 'stat'"):
        call_user_app_builder_with_args_if_necessary(build, {"stat": "x"})


def test_a_zip_of_2000_crops_gives_the_table_of_fertiray_score(
    client, service, cohort, zona_checkpoint, tmp_path
):
    store, out = str(tmp_path / "store"), tmp_path / "run"
    ingest(str(cohort), store)
    score(ScoringJob(store, (zona_checkpoint,), str(out), engine=EAGER), score_locally, workers=2)
    archive = shutil.make_archive(str(tmp_path / "cohort"), "zip", cohort)
    job = client.submit(archive)
    seen = []
    ended = client.wait(job["id"], lambda done, total: seen.append((done, total)), every=0.2)
    assert ended["state"] == "done", ended
    assert (ended["counts"]["rows_in"], ended["counts"]["rejected"]) == (2000, CORRUPT)
    assert seen[-1] == (2000, 2000)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    for table in ("scores", "rejects"):
        file = tmp_path / f"{table}.parquet"
        file.write_bytes(client.result(job["id"], "parquet", table))
        assert pl.read_parquet(file).equals(rows((out / table).glob("*.parquet")))
    (tmp_path / "patients.parquet").write_bytes(client.result(job["id"], "parquet"))
    own = pl.read_parquet(tmp_path / "patients.parquet")
    assert own.equals(pl.read_parquet(out / "patients.parquet"))
    assert b"P004" in client.result(job["id"], "html")
    again = client.submit(cohort, label="as a folder")  # a tar, made on the way
    assert client.wait(again["id"])["state"] == "done"
    (tmp_path / "again.parquet").write_bytes(client.result(again["id"], "parquet"))
    assert pl.read_parquet(tmp_path / "again.parquet").equals(own)
    client.delete(again["id"])
    assert [known["id"] for known in client.jobs()] == [job["id"]]


def test_overload_is_refused_with_a_time_to_come_back_and_nothing_taken_is_lost(
    client, service, cohort
):
    _, url, token = service
    image = next(f for f in sorted(cohort.rglob("*.png"))[1:]).read_bytes()
    files = [("images", (f"{n}.png", image)) for n in range(8)]

    def ask(_):
        headers = {"authorization": f"Bearer {token}"}
        return httpx2.post(f"{url}/v1/score", files=files, headers=headers, timeout=60)

    with ThreadPoolExecutor(160) as pool:
        answers = list(pool.map(ask, range(160)))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert {answer.status_code for answer in refused} <= {429, 503}
    assert all(answer.headers["retry-after"] for answer in refused)
    for answer in answers:
        if answer.status_code == 200:
            assert len(answer.json()["rows"]) == 8
    assert refused
    picture = sorted(cohort.rglob("*.png"))[1]
    with ThreadPoolExecutor(40) as pool:  # the client comes back by itself
        asked = [pool.submit(client.score, [picture]) for _ in range(40)]
        assert all(len(task.result()) == 1 for task in asked)


def test_models_are_exchanged_without_dropping_a_request(client, service, cohort, tmp_path):
    settings, _, _ = service
    (old,) = settings.checkpoints
    model, meta = checkpoint.load(old)
    operating = dataclasses.replace(meta.operating, threshold=1.0)
    checkpoint.save(str(tmp_path / "new"), model, dataclasses.replace(meta, operating=operating))
    other = dataclasses.replace(meta, name="other")
    checkpoint.save(str(tmp_path / "other"), model, other)
    picture, stop, seen = sorted(cohort.rglob("*.png"))[1], threading.Event(), []

    def ask():
        while not stop.is_set():
            seen.append(client.score([picture])[0]["model"])

    before = client.models()[0]["id"]

    def until(happens):
        give_up = time.monotonic() + 60
        while not happens() and time.monotonic() < give_up:
            time.sleep(0.1)
        if not happens():
            stop.set()
            raise AssertionError("not within a minute")

    with ThreadPoolExecutor(2) as pool:  # as many as the service lets in at a time
        tasks = [pool.submit(ask) for _ in range(2)]
        until(lambda: seen)
        catalogue.write(settings.places.models, [str(tmp_path / "new"), str(tmp_path / "other")])
        until(lambda: client.models()[0]["id"] != before)
        until(lambda: seen[-1] != before)
        stop.set()
        for task in tasks:
            task.result()  # raises where a request failed
    names = [served["name"] for served in client.models()]
    assert names == [meta.name, "other"]
    assert seen[0] == before
    assert seen[-1] == client.models()[0]["id"] != before
    both = client.score([picture])
    assert [row["model"].partition("@")[0] for row in both] == names
    assert both[0]["label"] != "bound"  # nothing reaches the new one's threshold
    assert both[0]["probabilities"] == both[1]["probabilities"]
    assert [row["model"] for row in client.score([picture], ["other"])] == [both[1]["model"]]
