"""Jobs worked off: interrupted anywhere they go on; one that is at fault ends with its reason."""

import io
import threading
import time
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from fertiray.data import crops
from fertiray.errors import StorageError
from fertiray.scoring.shards import score_locally
from fertiray.serving import bulk
from fertiray.serving import jobs as jobs_module
from fertiray.serving.bulk import work_off
from tests.serving.conftest import zipped


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Ten shards of 6 crops."""
    monkeypatch.setattr(crops, "ROW_GROUP", 6)


def submit(made, cohort) -> str:
    headers = {**made.a, "content-type": "application/zip"}
    return made.client.post("/v1/jobs", content=zipped(cohort), headers=headers).json()["id"]


def replace_runner(made, runner):
    return replace(made, work=replace(made.work, runner=runner))


def state(made, job) -> dict:
    return made.client.get(f"/v1/jobs/{job}", headers=made.a).json()


def work_until_it_breaks(made, break_with) -> None:
    """Works in a thread that ends, like a killed one, at the first error of the test's own."""
    stop = threading.Event()

    def broken(*_):
        stop.set()
        raise PowerCutError

    work = replace(made.work, runner=break_with(broken))
    thread = threading.Thread(target=work_off, args=(work, stop), daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()


class PowerCutError(RuntimeError):
    pass


def cut_after(shards):
    def break_with(broken):
        def runner(job, groups, workers, report):
            count = 0

            def counted(result):
                nonlocal count
                report(result)
                count += 1
                if count == shards:
                    broken()

            score_locally(job, groups, workers, counted)

        return runner

    return break_with


def score_files(run: str) -> list[Path]:
    return sorted(Path(run, "scores").glob("*.parquet"))


def test_interrupted_at_every_step_it_goes_on_and_nothing_is_scored_twice(
    clinic, cohort, monkeypatch
):
    monkeypatch.setattr(jobs_module, "PAUSE_S", 0.0)
    made = clinic()
    job = submit(made, cohort)
    run = made.service.places.run(made.service.jobs.get(job, "clinic-a"))

    with monkeypatch.context() as patch:

        def while_unpacking(broken):
            patch.setattr(bulk, "ingest", lambda *_, **__: broken())
            return score_locally

        work_until_it_breaks(made, while_unpacking)
    seen: dict[str, int] = {}
    for shards in (1, 2, 1):
        work_until_it_breaks(made, cut_after(shards))
        files = {f.name: f.stat().st_mtime_ns for f in score_files(run)}
        assert {name: files[name] for name in seen} == seen
        assert len(files) >= len(seen) + shards
        seen = files
    assert state(made, job)["state"] == "queued"
    made.work_off()
    found = state(made, job)
    assert (found["state"], found["done"], found["counts"]["rows_in"]) == ("done", 60, 60)
    files = {f.name: f.stat().st_mtime_ns for f in score_files(run)}
    assert {name: files[name] for name in seen} == seen
    ids = pl.concat([pl.read_parquet(f) for f in score_files(run)])["crop_id"]
    rejects = pl.read_parquet(f"{run}/rejects/*.parquet")["crop_id"]
    assert ids.n_unique() == len(ids) == 57
    assert len(rejects) == 3


@pytest.mark.parametrize("error", [OSError("lost"), StorageError("s3://b: is out")])
def test_a_job_that_never_gets_further_is_given_up(clinic, cohort, monkeypatch, error):
    monkeypatch.setattr(jobs_module, "PAUSE_S", 0.0)
    made = clinic()
    job = submit(made, cohort)
    calls = []

    def broken(job, groups, workers, report):
        calls.append(len(groups))
        raise error

    replace_runner(made, broken).work_off()
    assert calls == [10, 10, 10]
    assert "given up after 3 attempts" in state(made, job)["message"]
    assert not made.service.places.job(job).exists()


def test_cancelled_while_it_runs(clinic, cohort):
    made = clinic()
    job = submit(made, cohort)
    begun, go = threading.Event(), threading.Event()

    def slow(scoring, groups, workers, report):
        begun.set()
        go.wait(10)
        score_locally(scoring, groups, workers, report)

    stop = threading.Event()
    thread = threading.Thread(
        target=work_off, args=(replace(made.work, runner=slow), stop), daemon=True
    )
    thread.start()
    begun.wait(10)
    answer = made.client.post(f"/v1/jobs/{job}/cancel", headers=made.a).json()
    assert (answer["state"], answer["cancelling"]) == ("running", True)
    go.set()
    while state(made, job)["state"] == "running":
        time.sleep(0.02)
    stop.set()
    thread.join()
    assert state(made, job)["state"] == "cancelled"
    assert not made.service.places.job(job).exists()


def test_a_service_that_ends_gives_its_job_back_at_once(clinic, cohort):
    made = clinic()
    job = submit(made, cohort)
    begun, go = threading.Event(), threading.Event()

    def slow(scoring, groups, workers, report):
        begun.set()
        go.wait(10)
        score_locally(scoring, groups, workers, report)

    stop = threading.Event()
    thread = threading.Thread(
        target=work_off, args=(replace(made.work, runner=slow), stop), daemon=True
    )
    thread.start()
    begun.wait(10)
    stop.set()
    go.set()
    thread.join()
    found = made.service.jobs.get(job, "clinic-a")
    assert (found.state, found.attempts) == ("queued", 0)
    made.work_off()
    assert state(made, job)["state"] == "done"


def test_an_unusable_parquet_says_what_is_wrong(clinic):
    made = clinic()
    cases = {
        "no column 'patient_id'": pl.DataFrame({"image": [b"x"]}),
        "row 2 has no patient_id": pl.DataFrame({"patient_id": ["P", None], "image": [b"x", b"y"]}),
        "occurs twice": pl.DataFrame(
            {"patient_id": ["P", "P"], "image": [b"x", b"y"], "crop_id": ["c", "c"]}
        ),
        "no rows": pl.DataFrame({"patient_id": ["P"], "image": [b"x"]}).clear(),
        "cannot be read": pl.DataFrame({"patient_id": ["P"], "image": [1]}),
    }
    for said, frame in cases.items():
        buffer = io.BytesIO()
        frame.write_parquet(buffer)
        headers = {**made.a, "content-type": "application/vnd.apache.parquet"}
        job = made.client.post("/v1/jobs", content=buffer.getvalue(), headers=headers).json()["id"]
        made.work_off()
        found = state(made, job)
        assert found["state"] == "failed"
        assert said in found["message"], found["message"]
        assert str(made.service.places.root) not in found["message"]
    cut = buffer.getvalue()[:-30]
    headers = {**made.a, "content-type": "application/vnd.apache.parquet"}
    job = made.client.post("/v1/jobs", content=cut, headers=headers).json()["id"]
    made.work_off()
    assert "cannot be read" in state(made, job)["message"]
