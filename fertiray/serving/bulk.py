"""Jobs worked off: unpack, score, report; each step goes on where it was interrupted."""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from fertiray import storage
from fertiray.data.ingest import ingest
from fertiray.errors import CountsError, InputError, StorageError
from fertiray.scoring.run import Chooser, Runner, score
from fertiray.scoring.shards import ScoringJob
from fertiray.serving import archives
from fertiray.serving.audit import Audit
from fertiray.serving.jobs import ATTEMPTS, LEASE_S, Job, JobStore
from fertiray.serving.limits import Limits
from fertiray.serving.places import DAY_S, Places
from fertiray.serving.tables import parquet_to_store

log = logging.getLogger(__name__)

POLL_S = 0.25
TIDY_S = 600.0
UNPACKED = "unpacked.json"  # the archive is unpacked, whole
KEPT = ("crops", "rejected", "duplicates", "duplicates_across_patients", "rejected_by_reason")


class StoppedError(Exception):
    """The job was cancelled, or its lease has passed to another worker."""


@dataclass(frozen=True)
class Work:
    """What a worker needs.

    Attributes:
        jobs: the record.
        places: the files.
        limits: of archives.
        runner: scores shards; ``score_locally``, or replicas.
        choose: settles how networks are executed.
        engine: how they are to be.
        workers: shards at a time.
        device: torch device.
        audit: where a job's end is noted.
        keep_days: for how long a job that has ended is kept; None for ever.
    """

    jobs: JobStore
    places: Places
    limits: Limits
    runner: Runner
    choose: Chooser
    engine: str
    workers: int
    device: str
    audit: Audit
    keep_days: float | None = None


def work_off(work: Work, stop: threading.Event) -> None:
    """Works off jobs, one after the other, until it is told to stop."""
    while not stop.is_set():
        claimed = work.jobs.claim()
        if claimed is None:
            stop.wait(POLL_S)
        else:
            _work_on(work, *claimed, stop)


def tidy(work: Work, stop: threading.Event) -> None:
    """Deletes abandoned uploads and jobs past their time, until it is told to stop."""
    while True:
        try:
            if work.keep_days is not None:
                for job in work.jobs.expire(time.time() - work.keep_days * DAY_S):
                    work.places.clear(job.clinic, job.id)
                    work.audit.write("job", clinic=job.clinic, job=job.id, state="expired")
            work.places.sweep(work.jobs.known)
        except (OSError, sqlite3.Error):  # what is left of a job is swept away a day later
            log.exception("old jobs and uploads stay for now")
        if stop.wait(TIDY_S):
            return


def _work_on(work: Work, job: Job, lease: str, stop: threading.Event) -> None:
    if job.cancel:
        _end(work, job, lease, "cancelled")
        return
    if job.attempts > ATTEMPTS:
        message = job.message or "the service stopped each time"
        _end(work, job, lease, "failed", f"given up after {ATTEMPTS} attempts: {message}")
        return
    held = _Held(work.jobs, job, lease, stop)
    try:
        with held:
            counts = _do(work, job, held)
    except StoppedError:
        if stop.is_set():
            work.jobs.release(job.id, lease)
        else:
            _end(work, job, lease, "cancelled")
    except StorageError:
        _again(work, job, lease)
    except (InputError, CountsError) as error:
        _end(work, job, lease, "failed", _plain(str(error), work.places.job(job.id)))
    except Exception:  # a lost node, say; never the end of this loop
        _again(work, job, lease)
    else:
        _end(work, job, lease, "done", counts=counts)


def _again(work: Work, job: Job, lease: str) -> None:
    """What a full disk, an S3 that is out, or a lost node has stopped is worth another try."""
    log.exception("job %s: attempt %d", job.id, job.attempts)
    work.jobs.retry(job.id, lease, job.attempts)


def _do(work: Work, job: Job, held: _Held) -> dict[str, object]:
    """Unpacks, scores and reports.

    Returns:
        The counts for the job's record.
    """
    ingested = _crop_store(work, job, held) if job.source == "upload" else {}
    run = work.places.run(job)
    scored = score(
        ScoringJob(
            work.places.store(job),
            tuple(model["folder"] for model in job.models),
            run,
            device=work.device,
            engine=work.engine,
        ),
        work.runner,
        workers=work.workers,
        verdict_on=job.options["verdict_on"],
        progress=held.scored,
        choose=work.choose,
    )
    kept = ("rows_in", "scored", "rejected", "patients", "seconds", "crops_per_s")
    return {"ingest": ingested, **{key: scored[key] for key in kept}}


def _crop_store(work: Work, job: Job, held: _Held) -> dict[str, object]:
    """The upload as a crop store; what is there already is not made again.

    Returns:
        What ingest counted.
    """
    upload = work.places.upload(job.clinic, job.id)
    tree = work.places.tree(job)
    made = work.places.job(job.id) / UNPACKED
    if not made.exists():
        held.note(stage="unpacking")
        shutil.rmtree(tree.parent, ignore_errors=True)
        counts = _unpack(work, job, held, upload, tree)
        storage.write_bytes(str(made), json.dumps(counts).encode())
    shutil.rmtree(tree.parent, ignore_errors=True)
    upload.unlink(missing_ok=True)
    return dict(json.loads(made.read_text()))


def _unpack(work: Work, job: Job, held: _Held, upload: Path, tree: Path) -> dict[str, object]:
    store = work.places.store(job)
    if archives.kind_of(upload) == "parquet":
        shutil.rmtree(store, ignore_errors=True)
        return {"crops": parquet_to_store(upload, store, work.limits, held.going).files}
    strip = job.options["strip"]
    archives.unpack(upload, tree, work.limits, strip=strip, going=held.going)
    found = ingest(str(tree), store, progress=lambda *_: held.going())
    return {key: found[key] for key in KEPT}


class _Held:
    """A lease that is renewed in the background while a job is worked on."""

    def __init__(self, jobs: JobStore, job: Job, lease: str, stop: threading.Event) -> None:
        self._jobs, self._job, self._lease, self._stop = jobs, job, lease, stop
        self._lost = threading.Event()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease of {job.id}", daemon=True)

    def __enter__(self) -> _Held:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def going(self) -> None:
        """Raises :class:`StoppedError` where the work is to end."""
        if self._lost.is_set() or self._stop.is_set():
            raise StoppedError

    def note(self, **progress: object) -> None:
        """Writes progress down; raises as :meth:`going`."""
        self.going()
        if not self._jobs.renew(self._job.id, self._lease, **progress):
            self._lost.set()
            raise StoppedError

    def scored(self, done: int, total: int) -> None:
        """The progress of scoring, in crops."""
        self.note(stage="scoring" if done < total else "reporting", done=done, total=total)

    def _keep(self) -> None:
        while not self._done.wait(LEASE_S / 5):
            if not self._jobs.renew(self._job.id, self._lease):
                self._lost.set()
                return


def _end(
    work: Work,
    job: Job,
    lease: str,
    state: str,
    message: str = "",
    counts: dict[str, object] | None = None,
) -> None:
    ended = work.jobs.end(job.id, lease, state, message=message, counts=counts)  # type: ignore[arg-type]
    if not ended:  # another worker has it now
        return
    found = work.jobs.get(job.id, job.clinic)
    if found is not None and found.state != "done":
        work.places.clear(job.clinic, job.id)
    work.audit.write(
        "job",
        clinic=job.clinic,
        job=job.id,
        state=found.state if found else None,
        crops=(counts or {}).get("rows_in"),
    )


def _plain(message: str, folder: Path) -> str:
    """An error's message without this machine's places."""
    return message.replace(str(folder.resolve()), "upload").replace(str(folder), "upload")


class Workers:
    """Threads that work off jobs in the background, and one that deletes what is past its time.

    Args:
        work: what they need.
        parallel: jobs at a time.
    """

    def __init__(self, work: Work, parallel: int) -> None:
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=work_off, args=(work, self._stop), name=f"jobs-{number}")
            for number in range(parallel)
        ]
        self._threads.append(threading.Thread(target=tidy, args=(work, self._stop), name="tidy"))
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    def alive(self) -> bool:
        """Whether all of them are at work."""
        return all(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """Gives the jobs in hand back, for the next service to go on with."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
