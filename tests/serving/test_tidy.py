"""What a service deletes by itself: jobs past their time, abandoned uploads, and nothing else."""

import json
import os
import threading
import time
from datetime import datetime

import pytest

from fertiray.errors import InputError
from fertiray.serving.bulk import tidy
from fertiray.serving.places import ABANDONED_S, DAY_S
from fertiray.serving.settings import Settings, prepare
from tests.serving.conftest import zipped


def once(made) -> None:
    """One round of tidying."""
    stop = threading.Event()
    stop.set()
    tidy(made.work, stop)


def submit(made, cohort, who, key: str = "monday") -> dict:
    headers = {**who, "content-type": "application/zip", "idempotency-key": key}
    return made.client.post("/v1/jobs", content=zipped(cohort), headers=headers).json()


def ended(made, job: dict, days: float) -> None:
    """Lets the job have ended so many days ago."""
    with made.service.jobs._writing() as db:
        db.execute(
            "UPDATE jobs SET finished = ? WHERE id = ?", (time.time() - days * DAY_S, job["id"])
        )


def aged(path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def test_a_job_past_its_time_goes_with_all_that_was_sent_and_found(clinic, cohort):
    made = clinic(keep_days=30)
    old, young = submit(made, cohort, made.a), submit(made, cohort, made.b)
    assert old["expires"] is None  # it has not ended
    made.work_off()
    ended(made, old, 30.01)
    ended(made, young, 29.99)
    waiting = submit(made, cohort, made.a, key="tuesday")
    once(made)
    places = made.service.places
    found = [made.client.get("/v1/jobs", headers=who).json()["jobs"] for who in (made.a, made.b)]
    assert [[job["id"] for job in jobs] for jobs in found] == [[waiting["id"]], [young["id"]]]
    assert not places.job(old["id"]).exists()
    assert places.upload("clinic-a", waiting["id"]).exists()
    table = made.client.get(f"/v1/jobs/{young['id']}/result", headers=made.b)
    assert len(table.json()["rows"]) == 2
    gone = made.client.get(f"/v1/jobs/{old['id']}", headers=made.a)
    assert gone.status_code == 404
    (job,) = found[1]
    left = datetime.fromisoformat(job["expires"]).timestamp() - time.time()
    assert left == pytest.approx(0.01 * DAY_S, abs=60)
    audit = [json.loads(line) for line in next(made.service.audit.folder.iterdir()).open()]
    noted = [line for line in audit if line.get("state") == "expired"]
    assert [(line["event"], line["job"], line["clinic"]) for line in noted] == [
        ("job", old["id"], "clinic-a")
    ]
    assert submit(made, cohort, made.a)["id"] != old["id"]  # its key is free again


def test_without_a_time_jobs_stay(clinic, cohort):
    made = clinic()
    job = submit(made, cohort, made.a)
    made.work_off()
    ended(made, job, 3650)
    once(made)
    found = made.client.get(f"/v1/jobs/{job['id']}", headers=made.a).json()
    assert (found["state"], found["expires"]) == ("done", None)


def test_abandoned_uploads_and_what_deleted_jobs_left_go_after_a_day(clinic, cohort):
    made = clinic()
    places = made.service.places
    job = submit(made, cohort, made.a)
    uploads = [made.client.post("/v1/uploads", headers=made.a).json()["id"] for _ in range(3)]
    abandoned, fresh, late = (places.upload("clinic-a", upload) for upload in uploads)
    late.write_bytes(zipped(cohort))
    left = places.job("of-a-job-that-is-gone")
    (left / "store").mkdir(parents=True)
    for place in (abandoned, late, left, places.upload("clinic-a", job["id"])):
        aged(place, ABANDONED_S + 60)
    # A job is made of an old upload just before it would go.
    made.client.post("/v1/jobs", json={"upload": uploads[2]}, headers=made.a)
    once(made)
    assert not abandoned.exists()
    assert not left.exists()
    assert fresh.exists()
    made.work_off()
    jobs = made.client.get("/v1/jobs", headers=made.a).json()["jobs"]
    assert [(found["id"], found["state"]) for found in jobs] == [
        (uploads[2], "done"),
        (job["id"], "done"),
    ]


def test_a_job_that_is_being_made_of_an_old_upload_keeps_it(clinic, cohort):
    made = clinic()
    places = made.service.places
    upload = made.client.post("/v1/uploads", headers=made.a).json()["id"]
    file = places.upload("clinic-a", upload)
    file.write_bytes(zipped(cohort))
    aged(file, ABANDONED_S + 60)

    def known():
        """The job is accepted between the sweep's look at the disk and its look at the record."""
        made.client.post("/v1/jobs", json={"upload": upload}, headers=made.a)
        return made.service.jobs.known()

    places.sweep(known)
    assert file.exists()


def test_a_round_that_fails_is_not_the_last(clinic, cohort, monkeypatch, caplog):
    made = clinic(keep_days=1)
    job = submit(made, cohort, made.a)
    made.work_off()
    ended(made, job, 2)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(made.service.audit), "write", full)
        once(made)
    assert "stay for now" in caplog.text
    once(made)
    assert made.client.get("/v1/jobs", headers=made.a).json()["jobs"] == []


@pytest.mark.parametrize("days", [0, -1, float("nan"), float("inf"), 1e9])
def test_a_time_that_is_none_is_refused(tmp_path, days):
    with pytest.raises(InputError, match=r"--keep-days .*: give more than 0"):
        prepare(Settings(str(tmp_path / "s"), keep_days=days))
