"""Where the service keeps what: one folder, on a disk that outlives the machine's processes."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Set
from dataclasses import dataclass
from pathlib import Path

from fertiray.serving.jobs import Job

DAY_S = 24 * 3600.0
ABANDONED_S = DAY_S  # uploads that never became a job are swept away after a day


@dataclass(frozen=True)
class Places:
    """The folder of a service.

    Attributes:
        root: holds ``jobs.sqlite``, ``models.json``, ``engines.json``, ``audit/``, ``uploads/`` and
            ``jobs/``.
    """

    root: Path

    @property
    def database(self) -> Path:
        """The record of all jobs."""
        return self.root / "jobs.sqlite"

    @property
    def models(self) -> Path:
        """The checkpoints that are served."""
        return self.root / "models.json"

    @property
    def engines(self) -> Path:
        """How networks are executed, as it was measured."""
        return self.root / "engines.json"

    @property
    def audit(self) -> Path:
        """The audit log's folder."""
        return self.root / "audit"

    def uploads(self, clinic: str) -> Path:
        """A clinic's archives: on their way in, or of jobs that have not unpacked them yet."""
        return self.root / "uploads" / clinic

    def upload(self, clinic: str, upload_id: str) -> Path:
        """An archive as it came; the job that is made of it has the same id."""
        return self.uploads(clinic) / upload_id

    def job(self, job_id: str) -> Path:
        """All that belongs to a job."""
        return self.root / "jobs" / job_id

    def tree(self, job: Job) -> Path:
        """A job's archive unpacked; a flat one's patient is named after the folder."""
        return self.job(job.id) / "tree" / slug(job.label)

    def store(self, job: Job) -> str:
        """A job's crop store: its own, or the one it names."""
        return str(self.job(job.id) / "store") if job.source == "upload" else job.source

    def run(self, job: Job) -> str:
        """A job's run folder; the report is titled after it."""
        return str(self.job(job.id) / "run" / slug(job.label))

    def prepare(self) -> None:
        """Makes the folders, readable by their owner alone."""
        for folder in (self.root, self.root / "uploads", self.root / "jobs"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def clear(self, clinic: str, job_id: str) -> None:
        """Deletes everything a job has on disk."""
        shutil.rmtree(self.job(job_id), ignore_errors=True)
        self.upload(clinic, job_id).unlink(missing_ok=True)

    def sweep(self, known: Callable[[], Set[str]]) -> None:
        """Deletes uploads that never became a job, and what is left of deleted jobs.

        Args:
            known: ids of all jobs. It is called when the old places are found: an upload of which a
                job is being made is touched first, so it is either not old or known.
        """
        old = time.time() - ABANDONED_S
        places = (*(self.root / "uploads").glob("*/*"), *(self.root / "jobs").iterdir())
        found = [place for place in places if _changed(place) < old]
        jobs = known() if found else set()
        for place in found:
            if place.name in jobs:
                continue
            if place.is_dir():
                shutil.rmtree(place, ignore_errors=True)
            else:
                place.unlink(missing_ok=True)


def _changed(place: Path) -> float:
    """When it was last changed; just now where it has been deleted meanwhile."""
    try:
        return place.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def slug(label: str) -> str:
    """A label as a folder's name."""
    plain = re.sub(r"[^\w .-]+", "-", label).strip(" .-")[:60]
    return plain or "cohort"


def sync(file: Path) -> None:
    """Sees to it that a file and its place in its folder survive a power cut."""
    for place in (file, file.parent):
        handle = os.open(place, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
