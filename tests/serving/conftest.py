"""A service on a folder of its own, with the real networks, without Ray."""

import io
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from fertiray.scoring.engine import EAGER, choose_engines
from fertiray.scoring.shards import score_locally
from fertiray.serving import catalogue, tokens
from fertiray.serving.api import create_app
from fertiray.serving.audit import Audit
from fertiray.serving.bulk import Work, work_off
from fertiray.serving.interactive import Networks
from fertiray.serving.jobs import JobStore
from fertiray.serving.limits import Limits
from fertiray.serving.places import Places
from fertiray.serving.service import Service


@dataclass
class Clinic:
    """A service and its callers."""

    service: Service
    client: TestClient
    a: dict[str, str]  # headers of clinic a
    b: dict[str, str]
    operator: dict[str, str]
    work: Work

    def work_off(self) -> None:
        """Works off what waits, in this thread."""
        stop = threading.Event()
        worker = threading.Thread(target=work_off, args=(self.work, stop), daemon=True)
        worker.start()
        while set(self.service.jobs.totals()) & {"queued", "running"}:
            time.sleep(0.05)
        stop.set()
        worker.join()


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


Make = Callable[..., Clinic]


@pytest.fixture
def clinic(tmp_path, zona_checkpoint) -> Iterator[Make]:
    """Makes a service; ``limits`` are fields of Limits, the rest is as in Settings."""
    clients = []

    def make(
        *,
        folder: Path = tmp_path / "service",
        allowed=None,
        open_paths=(),
        keep_days=None,
        **limits: int,
    ) -> Clinic:
        places = Places(folder)
        places.prepare()
        catalogue.write(places.models, [zona_checkpoint])
        file = tmp_path / "tokens.json"
        made = {who: bearer(tokens.add(file, name)[0]) for who, name in CALLERS.items()}
        bounds = replace(Limits(), free_bytes=0, **limits)
        service = Service(
            places,
            JobStore(places.database),
            tokens.Keyring(file),
            Audit(places.audit),
            Networks("cpu", threads=1),
            bounds,
            allowed or {},
            open_paths,
            keep_days,
        )
        work = Work(
            *(service.jobs, places, bounds, score_locally, choose_engines, EAGER, 1, "cpu"),
            *(service.audit, keep_days),
        )
        client = TestClient(create_app(service), raise_server_exceptions=False)
        client.__enter__()
        clients.append(client)
        return Clinic(service, client, **made, work=work)

    yield make
    for client in clients:
        client.__exit__(None, None, None)


CALLERS = {"a": "clinic-a", "b": "clinic-b", "operator": None}


def zipped(folder: Path) -> bytes:
    """A folder's files as a zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return buffer.getvalue()


def tarred(folder: Path, mode: str = "w") -> bytes:
    """A folder's files as a tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        archive.add(folder, ".")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def cohort(tmp_path_factory) -> Path:
    """Two patients with 30 crops each, three of them corrupt."""
    from fertiray.data.synthetic import synth_crops

    folder = tmp_path_factory.mktemp("cohort") / "data"
    synth_crops(folder, patients=2, crops=30, seed=3)
    for path in sorted(folder.rglob("*.png"))[::20]:
        path.write_bytes(path.read_bytes()[:100])
    return folder
