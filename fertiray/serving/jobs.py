"""Jobs that survive everything: their record is a SQLite file, their work is files.

A job is ``queued``, then ``running``, then ``done``, ``failed`` or ``cancelled``. Whoever works on
a job holds a lease on it, which it renews while it lives; when a worker dies, its lease runs out
and another worker takes the job up at the first shard that is not done. Every write of a worker
names its lease, so one that was given up for dead and comes back changes nothing.

The file is in WAL mode, so all processes that open it must be on one machine; for clusters see
``jobs/serve.yaml``.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from fertiray.serving.limits import Limits

State = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED = ("done", "failed", "cancelled")

LEASE_S = 15.0
ATTEMPTS = 3  # without a single shard done in between; then the job itself is at fault
PAUSE_S = 5.0  # before a job that ended by an unexpected error is tried again, times its attempts


@dataclass(frozen=True)
class Job:
    """A job's record.

    Attributes:
        id: 128 random bits.
        clinic: whose it is.
        created: seconds since 1970.
        state: see the module.
        stage: what is being done, in a word: ``unpacking``, ``scoring`` or ``reporting``.
        source: ``upload``, or the location of a crop store.
        label: what the clinic calls it.
        models: ``id`` and ``folder`` of the checkpoints.
        options: ``verdict_on``, and ``strip`` of an upload.
        total: crops; None until they are counted.
        done: crops scored or rejected.
        counts: what came out, once done.
        message: why it failed.
        attempts: begun since the last shard was done.
        cancel: whether it is to be stopped.
        finished: seconds since 1970.
    """

    id: str
    clinic: str
    created: float
    state: State
    stage: str
    source: str
    label: str
    models: list[dict[str, str]]
    options: dict[str, Any]
    total: int | None
    done: int
    counts: dict[str, Any]
    message: str
    attempts: int
    cancel: bool
    finished: float | None


class KeyReusedError(Exception):
    """An idempotency key came with another request than the one it was first used for."""


class QueueFullError(Exception):
    """So many jobs wait that no more is accepted."""


_JSON = ("models", "options", "counts")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, clinic TEXT NOT NULL, created REAL NOT NULL,
    state TEXT NOT NULL DEFAULT 'queued', stage TEXT NOT NULL DEFAULT '',
    source TEXT NOT NULL, label TEXT NOT NULL, models TEXT NOT NULL, options TEXT NOT NULL,
    total INTEGER, done INTEGER NOT NULL DEFAULT 0, counts TEXT NOT NULL DEFAULT '{}',
    message TEXT NOT NULL DEFAULT '', attempts INTEGER NOT NULL DEFAULT 0,
    cancel INTEGER NOT NULL DEFAULT 0, finished REAL,
    key TEXT, digest TEXT NOT NULL, lease TEXT, until REAL NOT NULL DEFAULT 0,
    UNIQUE (clinic, key));
CREATE INDEX IF NOT EXISTS by_state ON jobs (state, until);
CREATE INDEX IF NOT EXISTS by_clinic ON jobs (clinic, created);
"""
_FREE = "(state = 'queued' OR state = 'running') AND until <= :now"
# The clinic that has least in hand goes first, then the job that has waited longest.
_NEXT = f"""
SELECT * FROM jobs AS job WHERE {_FREE} ORDER BY
    (SELECT count(*) FROM jobs AS other
     WHERE other.clinic = job.clinic AND other.state = 'running' AND other.until > :now),
    created LIMIT 1
"""


def new_id() -> str:
    """An id that cannot be guessed: 128 random bits."""
    return secrets.token_urlsafe(16)


class JobStore:
    """The record of all jobs.

    Args:
        file: the SQLite file; made where it does not exist.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        with self._opened() as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(_SCHEMA)
        file.chmod(0o600)

    def accept(
        self,
        job_id: str,
        clinic: str,
        *,
        source: str,
        label: str,
        models: Sequence[Mapping[str, str]],
        options: Mapping[str, Any],
        digest: str,
        key: str | None,
        limits: Limits,
    ) -> Job:
        """Writes down a new job, or finds the one that the same request made before.

        Args:
            job_id: of a new job, or of its upload; see :func:`new_id`.
            clinic: whose it is.
            source: see :class:`Job`; the next three too.
            label: its name.
            models: its checkpoints.
            options: how it is to be done.
            digest: of everything that was asked for, content included.
            key: the request's idempotency key, if it has one.
            limits: ``waiting`` and ``waiting_of_one`` count here.

        Returns:
            The job, on disk. Its id is ``job_id`` unless the key was used before.

        Raises:
            KeyReusedError: the key was used with another digest.
            QueueFullError: too many jobs wait.
        """
        with self._writing() as db:
            same = "SELECT * FROM jobs WHERE id = ? AND clinic = ?"
            if found := db.execute(same, (job_id, clinic)).fetchone():
                return _job(found)
            if key is not None:
                where = "SELECT * FROM jobs WHERE clinic = ? AND key = ?"
                if found := db.execute(where, (clinic, key)).fetchone():
                    if found["digest"] != digest:
                        raise KeyReusedError
                    return _job(found)
            self._check_room(db, clinic, limits)
            db.execute(
                "INSERT INTO jobs"
                " (id, clinic, created, source, label, models, options, digest, key)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(job_id, clinic, time.time(), source, label),
                    *(json.dumps(list(models)), json.dumps(dict(options)), digest, key),
                ),
            )
            return _job(db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone())

    def check_room(self, clinic: str, limits: Limits) -> None:
        """Raises :class:`QueueFullError` where :meth:`accept` would, before anything is sent."""
        with self._opened() as db:
            self._check_room(db, clinic, limits)

    def get(self, job_id: str, clinic: str) -> Job | None:
        """A clinic's own job; None where there is none, whoever else may have one."""
        with self._opened() as db:
            where = "SELECT * FROM jobs WHERE id = ? AND clinic = ?"
            found = db.execute(where, (job_id, clinic)).fetchone()
            return _job(found) if found else None

    def of_clinic(self, clinic: str, most: int) -> list[Job]:
        """A clinic's own jobs, the newest first."""
        with self._opened() as db:
            where = "SELECT * FROM jobs WHERE clinic = ? ORDER BY created DESC, id LIMIT ?"
            return [_job(row) for row in db.execute(where, (clinic, most))]

    def cancel(self, job_id: str, clinic: str) -> Job | None:
        """Stops a job: at once where nobody works on it, else at its worker's next look."""
        now = time.time()
        with self._writing() as db:
            db.execute(
                "UPDATE jobs SET cancel = 1,"
                f" state = CASE WHEN {_FREE} THEN 'cancelled' ELSE state END,"
                f" finished = CASE WHEN {_FREE} THEN :now ELSE finished END"
                " WHERE id = :id AND clinic = :clinic AND state IN ('queued', 'running')",
                {"id": job_id, "clinic": clinic, "now": now},
            )
        return self.get(job_id, clinic)

    def forget(self, job_id: str, clinic: str) -> bool:
        """Deletes the record of a job that has ended; its key may be used again."""
        with self._writing() as db:
            where = "DELETE FROM jobs WHERE id = ? AND clinic = ? AND state IN (?, ?, ?)"
            return db.execute(where, (job_id, clinic, *ENDED)).rowcount == 1

    def expire(self, before: float) -> list[Job]:
        """Deletes the records of jobs that ended before a time; their keys may be used again.

        Args:
            before: seconds since 1970.

        Returns:
            The jobs.
        """
        with self._writing() as db:
            where = "DELETE FROM jobs WHERE state IN (?, ?, ?) AND finished < ? RETURNING *"
            return [_job(row) for row in db.execute(where, (*ENDED, before)).fetchall()]

    def claim(self) -> tuple[Job, str] | None:
        """The next job that nobody works on, and a lease on it; None where there is none."""
        lease, now = secrets.token_hex(8), time.time()
        with self._writing() as db:
            found = db.execute(_NEXT, {"now": now}).fetchone()
            if found is None:
                return None
            db.execute(
                "UPDATE jobs SET state = 'running', lease = ?, until = ?, attempts = attempts + 1"
                " WHERE id = ?",
                (lease, now + LEASE_S, found["id"]),
            )
            row = db.execute("SELECT * FROM jobs WHERE id = ?", (found["id"],)).fetchone()
        return _job(row), lease

    def renew(self, job_id: str, lease: str, **progress: Any) -> bool:
        """Renews a lease and notes progress (``stage``, ``total``, ``done``).

        Returns:
            Whether the worker is to go on: the lease is still its own and nobody cancelled.
        """
        values = {"until": time.time() + LEASE_S, **progress}
        assignments = ", ".join(f"{name} = :{name}" for name in values)
        if "done" in progress:  # the job is not at fault: it moves
            assignments += ", attempts = CASE WHEN :done > done THEN 0 ELSE attempts END"
        with self._writing() as db:
            mine = "id = :id AND lease = :lease AND state = 'running'"
            changed = db.execute(
                f"UPDATE jobs SET {assignments} WHERE {mine} AND cancel = 0",
                {**values, "id": job_id, "lease": lease},
            )
            return changed.rowcount == 1

    def end(
        self,
        job_id: str,
        lease: str,
        state: State,
        *,
        message: str = "",
        counts: Mapping[str, Any] | None = None,
    ) -> bool:
        """Ends a job, unless the lease has passed to another worker.

        A job that was cancelled meanwhile ends as cancelled.

        Returns:
            Whether it was this call that ended it.
        """
        with self._writing() as db:
            changed = db.execute(
                "UPDATE jobs SET state = CASE WHEN cancel THEN 'cancelled' ELSE ? END, stage = '',"
                " message = ?, counts = ?, finished = ?, lease = NULL, until = 0"
                " WHERE id = ? AND lease = ? AND state = 'running'",
                (state, message, json.dumps(dict(counts or {})), time.time(), job_id, lease),
            )
            return changed.rowcount == 1

    def retry(self, job_id: str, lease: str, attempts: int) -> None:
        """Gives a job back, to be taken up again after a pause."""
        with self._writing() as db:
            db.execute(
                "UPDATE jobs SET state = 'queued', stage = '', lease = NULL, until = ?"
                " WHERE id = ? AND lease = ? AND state = 'running'",
                (time.time() + PAUSE_S * attempts, job_id, lease),
            )

    def release(self, job_id: str, lease: str) -> None:
        """Gives a job back because the worker ends; that is no attempt."""
        with self._writing() as db:
            db.execute(
                "UPDATE jobs SET state = 'queued', stage = '', lease = NULL, until = 0,"
                " attempts = attempts - 1 WHERE id = ? AND lease = ? AND state = 'running'",
                (job_id, lease),
            )

    def known(self) -> set[str]:
        """Ids of all jobs."""
        with self._opened() as db:
            return {row["id"] for row in db.execute("SELECT id FROM jobs")}

    def totals(self) -> dict[str, dict[str, float]]:
        """Of all clinics, by state: ``jobs``, ``crops`` and when the ``oldest`` was created."""
        with self._opened() as db:
            rows = db.execute(
                "SELECT state, count(*) AS jobs, sum(done) AS crops, min(created) AS oldest"
                " FROM jobs GROUP BY state"
            )
            names = ("jobs", "crops", "oldest")
            return {row["state"]: {name: row[name] for name in names} for row in rows}

    def _check_room(self, db: sqlite3.Connection, clinic: str, limits: Limits) -> None:
        rows = db.execute(
            "SELECT count(*) AS n, sum(clinic = ?) AS own FROM jobs WHERE state = 'queued'",
            (clinic,),
        ).fetchone()
        if rows["n"] >= limits.waiting or (rows["own"] or 0) >= limits.waiting_of_one:
            raise QueueFullError

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self.file, timeout=30, isolation_level=None)
        try:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA synchronous = FULL")  # what was accepted survives a power cut
            yield db
        finally:
            db.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._opened() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")


def _job(row: sqlite3.Row) -> Job:
    values = {field.name: row[field.name] for field in fields(Job)}
    values |= {name: json.loads(values[name]) for name in _JSON}
    return Job(**{**values, "cancel": bool(values["cancel"])})
