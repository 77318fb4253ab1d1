"""The record of jobs: every job is worked on by one worker, ends once, and is never lost."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from fertiray.serving import jobs as module
from fertiray.serving.jobs import ATTEMPTS, JobStore, KeyReusedError, QueueFullError, new_id
from fertiray.serving.limits import Limits

LIMITS = Limits()


@pytest.fixture
def store(tmp_path) -> JobStore:
    return JobStore(tmp_path / "jobs.sqlite")


def accept(store, clinic="a", key=None, digest="d", limits=LIMITS, job_id=None):
    return store.accept(
        job_id or new_id(),
        clinic,
        source="upload",
        label="x",
        models=[{"id": "m@1", "folder": "/m"}],
        options={"verdict_on": "prevalence", "strip": 0},
        digest=digest,
        key=key,
        limits=limits,
    )


def test_a_job_goes_from_queued_to_done(store):
    job = accept(store)
    assert (job.state, job.total, job.attempts) == ("queued", None, 0)
    claimed, lease = store.claim()
    assert (claimed.id, claimed.state, claimed.attempts) == (job.id, "running", 1)
    assert store.claim() is None
    assert store.renew(job.id, lease, stage="scoring", done=5, total=9)
    assert store.get(job.id, "a").done == 5
    assert store.end(job.id, lease, "done", counts={"rows_in": 9})
    ended = store.get(job.id, "a")
    assert (ended.state, ended.counts) == ("done", {"rows_in": 9})
    assert ended.finished >= ended.created
    assert store.claim() is None
    assert not store.end(job.id, lease, "failed")
    assert store.totals() == {"done": {"jobs": 1, "crops": 5, "oldest": job.created}}


def test_a_clinic_sees_its_own_alone(store):
    job = accept(store, "a")
    assert store.get(job.id, "b") is None
    assert store.cancel(job.id, "b") is None
    assert not store.forget(job.id, "b")
    assert store.of_clinic("b", 10) == []
    assert [found.id for found in store.of_clinic("a", 10)] == [job.id]
    assert store.get(job.id, "a").state == "queued"


def test_a_dead_workers_job_passes_to_another_and_the_dead_one_changes_nothing(store, monkeypatch):
    monkeypatch.setattr(module, "LEASE_S", 0.05)
    job = accept(store)
    _, dead = store.claim()
    time.sleep(0.1)
    monkeypatch.setattr(module, "LEASE_S", 15.0)
    again, lease = store.claim()
    assert (again.id, again.attempts) == (job.id, 2)
    assert not store.renew(job.id, dead, done=99)
    assert not store.end(job.id, dead, "failed")
    store.retry(job.id, dead, 1)
    assert store.get(job.id, "a").state == "running"
    assert store.end(job.id, lease, "done")


def test_progress_is_what_saves_a_job_from_being_given_up(store, monkeypatch):
    monkeypatch.setattr(module, "PAUSE_S", 0.0)
    accept(store)
    for attempt in range(1, ATTEMPTS + 2):
        job, lease = store.claim()
        assert job.attempts == attempt
        store.retry(job.id, lease, 0)
    job, lease = store.claim()
    store.renew(job.id, lease, done=10, total=20)
    store.retry(job.id, lease, 0)
    job, lease = store.claim()
    assert job.attempts == 1
    store.renew(job.id, lease, done=10, total=20)  # no further than before
    assert store.get(job.id, "a").attempts == 1
    store.release(job.id, lease)  # a service that ends in good order is no attempt
    assert store.claim()[0].attempts == 1


def test_a_failed_attempt_waits_before_the_next(store):
    job = accept(store)
    _, lease = store.claim()
    store.retry(job.id, lease, 1)
    assert store.get(job.id, "a").state == "queued"
    assert store.claim() is None


def test_cancelling(store):
    waiting, running = accept(store), None
    assert store.cancel(waiting.id, "a").state == "cancelled"
    accept(store)
    running, lease = store.claim()
    found = store.cancel(running.id, "a")
    assert (found.state, found.cancel) == ("running", True)
    assert not store.renew(running.id, lease)  # this is how its worker learns of it
    assert store.end(running.id, lease, "done")
    assert store.get(running.id, "a").state == "cancelled"
    assert store.cancel(running.id, "a").state == "cancelled"


def test_the_same_key_is_the_same_job(store):
    job = accept(store, key="k")
    assert accept(store, key="k").id == job.id
    assert accept(store, clinic="b", key="k").id != job.id
    with pytest.raises(KeyReusedError):
        accept(store, key="k", digest="other")
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: accept(store, key="twice").id, range(16)))
    assert len(ids) == 1


def test_queues_are_bounded_for_all_and_for_one(store):
    limits = replace(LIMITS, waiting=3, waiting_of_one=2)
    accept(store, limits=limits)
    job = accept(store, limits=limits, key="k")
    with pytest.raises(QueueFullError):
        accept(store, limits=limits)
    assert accept(store, limits=limits, key="k").id == job.id
    accept(store, "b", limits=limits)
    with pytest.raises(QueueFullError):
        store.check_room("c", limits)
    store.claim()
    accept(store, "c", limits=limits)


def test_the_clinic_with_least_in_hand_goes_first(store):
    for clinic in ("a", "a", "a", "b"):
        accept(store, clinic)
        time.sleep(0.002)
    assert [store.claim()[0].clinic for _ in range(4)] == ["a", "b", "a", "a"]


def test_an_ended_job_can_be_forgotten_and_a_waiting_one_cannot(store):
    job = accept(store, key="k")
    assert not store.forget(job.id, "a")
    store.cancel(job.id, "a")
    assert store.forget(job.id, "a")
    assert store.known() == set()
    assert accept(store, key="k", digest="new").id != job.id


def test_many_workers_never_hold_one_job_twice(store):
    ids = {
        accept(store, f"c{n % 5}", limits=replace(LIMITS, waiting_of_one=99)).id for n in range(40)
    }
    held: list[str] = []

    def work() -> None:
        own = JobStore(store.file)
        while claimed := own.claim():
            held.append(claimed[0].id)
            own.end(claimed[0].id, claimed[1], "done")

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(held) == sorted(ids)
