"""Hostile files through the HTTP interface: images to be scored at once, archives as jobs.

The interface is called in this process, without a network between, with one worker for jobs.
"""

from __future__ import annotations

import base64
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from starlette.testclient import TestClient

from fertiray import checkpoint
from fertiray.bench.chaos.archives import LIMITS, archive
from fertiray.bench.chaos.mutate import flip_bits, hostile, truncate
from fertiray.bench.chaos.outcome import Attempt, Outcome
from fertiray.models.preprocess import Preprocessing
from fertiray.models.registry import build_model
from fertiray.scoring.engine import EAGER, choose_engines
from fertiray.scoring.shards import score_locally
from fertiray.serving import tokens
from fertiray.serving.api import create_app
from fertiray.serving.bulk import Workers
from fertiray.serving.interactive import Networks
from fertiray.serving.settings import Settings, prepare, service_of, work_of

REQUEST = 16  # images of a request for scores


@contextmanager
def scoring(folder: Path, seed: int) -> Iterator[Attempt]:
    """A few images through ``POST /v1/score``, as files or in JSON, now and then damaged."""
    with _service(folder) as client:

        def attempt(number: int) -> Outcome:
            rng = random.Random(f"request {seed} {number}")
            files = [
                hostile(2 * 10**9 + number * REQUEST + place, seed) for place in range(REQUEST)
            ]
            found = Outcome(REQUEST, Counter(file.kind for file in files))
            if number % 2:
                texts = [base64.b64encode(file.data).decode() for file in files]
                request = client.build_request("POST", "/v1/score", json={"images": texts})
            else:
                parts = [("images", (file.name, file.data, "image/png")) for file in files]
                request = client.build_request("POST", "/v1/score", files=parts)
            body, kind = request.read(), request.headers["content-type"]
            damaged = rng.random() < 0.25
            if damaged:
                body = rng.choice((flip_bits, truncate))(body, rng)
            answer = client.post("/v1/score", content=body, headers={"content-type": kind})
            found.answers[str(answer.status_code)] += 1
            found.check(
                answer.status_code < 500, f"status {answer.status_code}: {answer.text[:99]}"
            )
            if answer.status_code != 200:
                found.check(damaged, f"status {answer.status_code}: {answer.text[:99]}")
                return found
            rows = answer.json()["rows"]
            found.check(damaged or len(rows) == REQUEST, f"{len(rows)} rows for {REQUEST} images")
            for row in rows:
                if row["error"] is None:
                    found.pictures += 1
                    found.check(row["label"] is not None, "neither a label nor an error")
                else:
                    found.rejects[row["error"].partition(":")[0]] += 1
            return found

        yield attempt


@contextmanager
def working(folder: Path, seed: int) -> Iterator[Attempt]:
    """An archive through ``POST /v1/jobs``, worked off, its results fetched and deleted."""
    with _service(folder) as client:

        def attempt(number: int) -> Outcome:
            sent = archive(number, seed)
            found = Outcome(kinds=Counter([sent.kind]))
            headers = {"content-type": "application/octet-stream"}
            answer = client.post("/v1/jobs", content=sent.data, headers=headers)
            found.answers[str(answer.status_code)] += 1
            found.check(
                answer.status_code < 500, f"status {answer.status_code}: {answer.text[:99]}"
            )
            if answer.status_code != 202:
                found.check(sent.verdict != "accepted", f"refused: {answer.text[:99]}")
                return found
            job = answer.json()
            while job["state"] in ("queued", "running"):
                time.sleep(0.02)
                job = client.get(f"/v1/jobs/{job['id']}").json()
            found.answers[job["state"]] += 1
            if job["state"] == "done":
                found.check(sent.verdict != "refused", "done")
                rows, counts = job["counts"]["rows_in"], job["counts"]
                found.check(rows == counts["scored"] + counts["rejected"], "rows in are not out")
                found.check(sent.verdict == "either" or rows == sent.images, f"{rows} rows")
                found.pictures, found.rejects = counts["scored"], Counter(job=counts["rejected"])
                for form in ("json", "csv", "parquet", "html"):
                    page = client.get(f"/v1/jobs/{job['id']}/result?format={form}")
                    found.check(page.status_code == 200, f"{form}: status {page.status_code}")
            else:
                found.check(sent.verdict != "accepted", f"{job['state']}: {job['message']}")
                said = job["message"]
                plain = said != "" and "\n" not in said and str(folder) not in said
                found.check(plain, f"said {said!r}")
            gone = client.delete(f"/v1/jobs/{job['id']}")
            found.check(gone.status_code == 204, f"deleting: status {gone.status_code}")
            return found

        yield attempt


@contextmanager
def _service(folder: Path) -> Iterator[Any]:
    """The HTTP interface in this process with one worker for jobs; a client with a token."""
    file = folder / "tokens.json"
    text, _ = tokens.add(file, "clinic-a")
    settings = Settings(
        str(folder / "state"),
        str(file),
        (_checkpoint(folder / "network"),),
        device="cpu",
        engine=EAGER,
        limits=LIMITS,
    )
    prepare(settings)
    app = create_app(service_of(settings, Networks("cpu", threads=1)))
    workers = Workers(work_of(settings, score_locally, choose_engines), 1)
    headers = {"authorization": f"Bearer {text}"}
    with TestClient(app, headers=headers, raise_server_exceptions=False) as client:
        while client.get("/readyz").status_code != 200:
            time.sleep(0.1)
        yield client
    workers.stop()


def _checkpoint(folder: Path) -> str:
    """A small network that has learned nothing: what it says of a picture does not matter here."""
    torch.manual_seed(0)
    model = build_model("basic_cnn", 2, in_channels=1, size=32, args={})
    meta = checkpoint.Meta(
        name="zona",
        paper="zona_vgg13",
        model="basic_cnn",
        task="zona",
        classes=("unbound", "bound"),
        positive="bound",
        preprocessing=Preprocessing(32, "grey", mean=(0.5,), std=(0.5,)),
        operating=checkpoint.Operating(0.5, 0.9, 0.9, 100, 100),
        data_digest="0" * 16,
    )
    checkpoint.save(str(folder), model, meta)
    return str(folder)
