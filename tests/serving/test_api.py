"""The HTTP interface: what goes in comes out scored, and what is not right is said in one line."""

import asyncio
import base64
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest

from fertiray import storage
from fertiray.data.ingest import ingest
from fertiray.errors import StorageError
from fertiray.scoring.run import score
from fertiray.scoring.shards import ScoringJob, score_locally
from fertiray.serving import results
from tests.serving.conftest import tarred, zipped


@pytest.fixture(scope="module")
def expected(cohort, zona_checkpoint, tmp_path_factory) -> Path:
    """The run folder of ``fertiray ingest`` and ``fertiray score`` on the same crops."""
    folder = tmp_path_factory.mktemp("expected")
    ingest(str(cohort), str(folder / "store"))
    job = ScoringJob(str(folder / "store"), (zona_checkpoint,), str(folder / "run"), engine="eager")
    score(job, score_locally, workers=1)
    return folder


def submit(clinic, data: bytes, kind="application/zip", headers=None, **query):
    headers = {**(headers or clinic.a), "content-type": kind}
    return clinic.client.post("/v1/jobs", content=data, headers=headers, params=query)


def finished(clinic, answer):
    assert answer.status_code == 202, answer.text
    clinic.work_off()
    found = clinic.client.get(answer.headers["location"], headers=clinic.a).json()
    assert found["state"] == "done", found
    return found


def result(clinic, job, **query) -> bytes:
    answer = clinic.client.get(f"/v1/jobs/{job['id']}/result", params=query, headers=clinic.a)
    assert answer.status_code == 200, answer.text
    return answer.content


def test_images_in_rows_out_equal_to_fertiray_score(clinic, cohort, expected):
    service = clinic()
    scores = pl.read_parquet(expected / "run/scores/*.parquet")
    crops = pl.read_parquet(expected / "store/part-*.parquet").filter(pl.col("width").is_not_null())
    some = crops.head(5)
    files = [("images", (f"{n}.png", image)) for n, image in enumerate(some["image"])]
    files.append(("images", ("bad.png", b"junk")))
    answer = service.client.post("/v1/score", files=files, headers=service.a)
    assert answer.status_code == 200, answer.text
    rows = answer.json()["rows"]
    assert [row["name"] for row in rows] == ["0.png", "1.png", "2.png", "3.png", "4.png", "bad.png"]
    for row, crop_id in zip(rows, some["crop_id"], strict=False):
        (known,) = scores.filter(crop_id=crop_id).to_dicts()
        assert row["label"] == known["label"]
        assert row["probabilities"]["bound"] == pytest.approx(known["p_bound"], abs=1e-6)
        assert row["error"] is None
    assert rows[5]["stage"] == "decode"
    assert rows[5]["error"].startswith("not-an-image")
    assert rows[5]["probabilities"] is None
    texts = [base64.b64encode(image).decode() for image in some["image"]]
    again = service.client.post("/v1/score", json={"images": texts}, headers=service.a).json()
    assert [row["probabilities"] for row in again["rows"]] == [
        row["probabilities"] for row in rows[:5]
    ]


@pytest.mark.parametrize("pack", [zipped, tarred, lambda f: tarred(f, "w:gz")])
def test_an_archive_gives_the_table_of_fertiray_score(clinic, cohort, expected, pack):
    service = clinic()
    kind = "application/octet-stream"
    job = finished(service, submit(service, pack(cohort), kind, label="Monday"))
    assert job["counts"]["rows_in"] == 60
    assert (job["done"], job["total"]) == (60, 60)
    assert job["counts"]["rejected"] == 3
    patients = pl.read_parquet(io.BytesIO(result(service, job, format="parquet")))
    assert patients.equals(pl.read_parquet(expected / "run/patients.parquet"))
    for table in ("scores", "rejects"):
        own = pl.read_parquet(io.BytesIO(result(service, job, format="parquet", table=table)))
        known = pl.read_parquet(expected / f"run/{table}/*.parquet").sort("crop_id")
        assert own.equals(known)
    assert result(service, job, format="csv") == (expected / "run/patients.csv").read_bytes()
    rows = json.loads(result(service, job))["rows"]
    assert rows == json.loads(patients.write_json())
    assert b"Monday" in result(service, job, format="html")
    left = {file.name for file in service.service.places.job(job["id"]).iterdir()}
    assert left == {"store", "run", "unpacked.json"}


def test_parquet_and_an_allowed_store_give_the_same_table(clinic, expected):
    service = clinic(allowed={"clinic-a": [str(expected)]})
    (part,) = (expected / "store").glob("part-*.parquet")
    known = pl.read_parquet(expected / "run/patients.parquet")
    kind = "application/vnd.apache.parquet"
    uploaded = finished(service, submit(service, part.read_bytes(), kind))
    where = {"store": str(expected / "store")}
    answer = service.client.post("/v1/jobs", json=where, headers=service.a)
    named = finished(service, answer)
    for job in (uploaded, named):
        own = pl.read_parquet(io.BytesIO(result(service, job, format="parquet")))
        assert own.equals(known)
    bare = pl.read_parquet(part).select("patient_id", "image")
    buffer = io.BytesIO()
    bare.write_parquet(buffer)
    job = finished(service, submit(service, buffer.getvalue(), kind))
    counts = pl.read_parquet(io.BytesIO(result(service, job, format="parquet")))
    assert counts["n_positive"].to_list() == known["n_positive"].to_list()


def test_no_other_place_can_be_named(clinic, expected, tmp_path):
    service = clinic(allowed={"clinic-a": [str(expected), "s3://bucket/a"], "clinic-b": []})
    (tmp_path / "link").symlink_to(expected)
    places = [
        *(f"{expected}-other", f"{expected}/../x", "/etc", "relative", "file:///etc", "http://x/y"),
        *(
            "s3://bucket/ab",
            "s3://bucket/a/../b",
            "s3://bucket//a",
            "s3://other",
            "memory://x",
            "~",
        ),
        "/\x00",
    ]
    for place in places:
        answer = service.client.post("/v1/jobs", json={"store": place}, headers=service.a)
        assert answer.status_code == 403, place
    answer = service.client.post("/v1/jobs", json={"store": str(expected)}, headers=service.b)
    assert answer.status_code == 403
    inside = service.client.post("/v1/jobs", json={"store": f"{expected}/none"}, headers=service.a)
    service.work_off()
    found = service.client.get(inside.headers["location"], headers=service.a).json()
    assert found["state"] == "failed"
    assert "no crop store there" in found["message"]


def test_the_same_key_never_makes_a_second_job(clinic, cohort):
    service = clinic()
    headers = {**service.a, "idempotency-key": "k1"}
    data = zipped(cohort)
    first = submit(service, data, headers=headers, label="x").json()
    assert submit(service, data, headers=headers, label="x").json()["id"] == first["id"]
    assert submit(service, data, headers=headers, label="y").status_code == 422
    assert submit(service, data + b"x", headers=headers, label="x").status_code == 422
    assert len(service.client.get("/v1/jobs", headers=service.a).json()["jobs"]) == 1
    uploads = service.service.places.uploads("clinic-a")
    assert [file.name for file in uploads.iterdir()] == [first["id"]]


def test_an_archive_is_uploaded_in_parts_and_goes_on_where_it_broke_off(clinic, cohort, expected):
    service = clinic(body_bytes=40_000)
    data, size = tarred(cohort), 30_000

    def call(method, path, headers=service.a, **options):
        return service.client.request(method, path, headers=headers, **options)

    upload = call("POST", "/v1/uploads").json()
    place = f"/v1/uploads/{upload['id']}"
    assert (upload["bytes"], upload["part_bytes"]) == (0, 40_000)
    for offset in range(0, len(data), size):
        part = data[offset : offset + size]
        assert call("PATCH", f"{place}?offset={offset + 1}", content=part).status_code == 409
        assert call("PATCH", f"{place}?offset={offset}", service.b, content=part).status_code == 404
        late = call("PATCH", f"{place}?offset={offset}", content=iter([part, bytes(50_000)]))
        assert late.status_code == 413
        assert call("PATCH", f"{place}?offset={offset}", content=b"").status_code == 400
        assert call("GET", place).json()["bytes"] == offset
        answer = call("PATCH", f"{place}?offset={offset}", content=part)
        assert answer.json()["bytes"] == offset + len(part)
    query = {"json": {"upload": upload["id"]}}
    assert call("POST", "/v1/jobs", service.b, **query).status_code == 404
    first = call("POST", "/v1/jobs", **query)
    assert call("POST", "/v1/jobs", **query).json()["id"] == first.json()["id"] == upload["id"]
    assert call("PATCH", f"{place}?offset={len(data)}", content=b"x").status_code == 404
    assert call("DELETE", place).status_code == 404
    job = finished(service, first)
    own = pl.read_parquet(io.BytesIO(result(service, job, format="parquet")))
    assert own.equals(pl.read_parquet(expected / "run/patients.parquet"))
    assert call("POST", "/v1/jobs", **query).json()["state"] == "done"


def test_uploads_are_bounded_and_can_be_deleted(clinic):
    service = clinic(uploads=2, upload_bytes=100)
    ids = [service.client.post("/v1/uploads", headers=service.a).json()["id"] for _ in range(2)]
    full = service.client.post("/v1/uploads", headers=service.a)
    assert (full.status_code, full.headers["retry-after"]) == (429, "30")
    assert service.client.post("/v1/uploads", headers=service.b).status_code == 201
    place = f"/v1/uploads/{ids[0]}"
    much = service.client.patch(f"{place}?offset=0", content=bytes(101), headers=service.a)
    assert much.status_code == 413
    assert service.client.delete(place, headers=service.b).status_code == 404
    assert service.client.delete(place, headers=service.a).status_code == 204
    assert service.client.get(place, headers=service.a).status_code == 404
    for name in ("..%2f" + ids[1], "..", ids[1] + "x", "../clinic-a/" + ids[1]):
        found = service.client.get(f"/v1/uploads/{name}", headers=service.b)
        assert found.status_code == 404


def test_a_hostile_archive_fails_the_job_in_one_line(clinic):
    import zipfile

    service = clinic()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../../escape.png", b"x")
    answer = submit(service, buffer.getvalue())
    assert answer.status_code == 202
    service.work_off()
    found = service.client.get(answer.headers["location"], headers=service.a).json()
    assert found["state"] == "failed"
    assert "../../escape.png is no plain relative name" in found["message"]
    root = service.service.places.root
    assert not list(root.parent.rglob("escape.png"))
    assert not service.service.places.job(found["id"]).exists()


def test_limits_are_kept_before_and_while_reading(clinic, cohort):
    service = clinic(body_bytes=500, images=2, waiting_of_one=1)
    big = b"PK\3\4" + bytes(2000)
    assert submit(service, big).status_code == 413
    chunks = service.client.post(
        "/v1/jobs",
        content=iter([big[:400], big[400:]]),
        headers={**service.a, "content-type": "application/zip"},
    )
    assert chunks.status_code == 413
    assert list(service.service.places.uploads("clinic-a").iterdir()) == []
    body = service.client.post("/v1/score", content=bytes(600), headers=service.a)
    assert body.status_code == 413
    three = service.client.post("/v1/score", json={"images": ["AA=="] * 3}, headers=service.a)
    assert three.status_code == 413
    assert submit(service, b"PK\5\6" + bytes(18)).status_code == 202
    full = submit(service, b"PK\5\6" + bytes(18))
    assert (full.status_code, full.headers["retry-after"]) == (429, "30")
    other = submit(service, b"PK\5\6" + bytes(18), headers=service.b)
    assert other.status_code == 202


@pytest.mark.parametrize(
    ("path", "options", "status", "said"),
    [
        ("/v1/score", {"json": {"images": []}}, 422, "images"),
        ("/v1/score", {"json": {"images": ["?"]}}, 422, "images.0: not base64"),
        ("/v1/score", {"json": {"image": "x"}}, 422, "images"),
        ("/v1/score", {"content": b"{", "headers": {"content-type": "application/json"}}, 422, ""),
        (
            "/v1/score",
            {"content": b"x", "headers": {"content-type": "text/plain"}},
            415,
            "send mul",
        ),
        ("/v1/score?models=none", {"json": {"images": ["AA=="]}}, 422, "there are: "),
        ("/v1/jobs", {"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "one of"),
        (
            "/v1/jobs",
            {"content": b"", "headers": {"content-type": "application/zip"}},
            400,
            "empty",
        ),
        (
            "/v1/jobs",
            {"content": b"x", "headers": {"content-type": "application/zip"}},
            415,
            "zip,",
        ),
        ("/v1/jobs?strip=9", {"json": {"store": "/x"}}, 422, "query.strip"),
        ("/v1/jobs?models=none", {"json": {"store": "/x"}}, 422, "there are: "),
        ("/v1/jobs", {"json": {}}, 422, "name an upload or a store"),
        ("/v1/jobs", {"json": {"store": "/x", "upload": "y"}}, 422, "name an upload or a store"),
        ("/v1/jobs", {"json": {"upload": "../x"}}, 404, "no such upload"),
    ],
)
def test_a_mistake_is_said_in_one_line(clinic, path, options, status, said):
    service = clinic()
    headers = {**service.a, **options.pop("headers", {})}
    answer = service.client.post(path, headers=headers, **options)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]


def test_a_job_is_cancelled_and_deleted_with_all_its_files(clinic, cohort):
    service = clinic()
    job = submit(service, zipped(cohort)).json()
    upload = service.service.places.upload("clinic-a", job["id"])
    assert upload.exists()
    early = service.client.get(f"/v1/jobs/{job['id']}/result", headers=service.a)
    assert early.status_code == 409
    waiting = service.client.delete(f"/v1/jobs/{job['id']}", headers=service.a)
    assert waiting.status_code == 409
    stopped = service.client.post(f"/v1/jobs/{job['id']}/cancel", headers=service.a).json()
    assert stopped["state"] == "cancelled"
    assert not upload.exists()
    done = finished(service, submit(service, zipped(cohort)))
    kept = service.client.post(f"/v1/jobs/{done['id']}/cancel", headers=service.a).json()
    assert kept["state"] == "done"
    assert service.client.delete(f"/v1/jobs/{done['id']}", headers=service.a).status_code == 204
    assert not service.service.places.job(done["id"]).exists()
    assert service.client.get(f"/v1/jobs/{done['id']}", headers=service.a).status_code == 404


def test_patients_crops_and_heatmaps(clinic, cohort, expected):
    service = clinic()
    job = finished(service, submit(service, zipped(cohort)))
    base = f"/v1/jobs/{job['id']}"

    def get(path, **query):
        return service.client.get(base + path, params=query, headers=service.a)

    listed = get("/patients").json()["patients"]
    known = pl.read_parquet(expected / "run/patients.parquet")
    assert [entry["patient_id"] for entry in listed] == known["patient_id"].to_list()
    shown = get("/patients/1").json()
    assert shown["patient_id"] == listed[1]["patient_id"]
    (own,) = shown["results"]
    assert own["row"] == listed[1]["results"][0]["row"]
    assert sum(part["n"] for part in own["mix"]) == own["row"]["n_scored"]
    assert own["text"]
    assert get("/patients/2").status_code == 404
    assert get("/patients/-1").status_code == 404
    assert get("/patients/x").status_code == 422
    crop = own["pictures"][0]["crop_id"]
    picture = get(f"/crops/{crop}/image")
    assert picture.content.startswith(b"\x89PNG")
    for method in ("gradcam", "gradcam++", "saliency"):
        heat = get(f"/crops/{crop}/heatmap", model=own["row"]["model"], method=method)
        assert heat.status_code == 200, heat.text
        assert heat.content.startswith(b"\x89PNG")
        assert heat.content != picture.content
    assert get(f"/crops/{crop}/heatmap", model="none").status_code == 422
    assert get("/crops/none/image").status_code == 404
    rejected = pl.read_parquet(expected / "run/rejects/*.parquet")["crop_id"][0]
    assert get(f"/crops/{rejected}/image").status_code == 409


def test_a_storage_that_is_out_is_nobodys_mistake(clinic, cohort, monkeypatch):
    """503 with Retry-After; what the storage said is for the operator's log only."""
    service = clinic()
    job = finished(service, submit(service, zipped(cohort)))
    base = f"/v1/jobs/{job['id']}"
    listed = service.client.get(f"{base}/patients", headers=service.a).json()["patients"]
    model = listed[0]["results"][0]["row"]["model"]
    shown = service.client.get(f"{base}/patients/0", headers=service.a).json()
    crop = shown["results"][0]["pictures"][0]["crop_id"]

    def out(place, *_, **__):
        raise StorageError(f"{place}: cannot be reached")

    monkeypatch.setattr(storage, "read_bytes", out)
    monkeypatch.setattr(results, "crop_image", out)
    for path in (
        "/patients",
        "/patients/0",
        "/result?format=csv",
        "/view",
        f"/crops/{crop}/image",
        f"/crops/{crop}/heatmap?model={model}",
    ):
        answer = service.client.get(base + path, headers=service.a)
        assert answer.status_code == 503, path
        assert answer.headers["retry-after"] == "30"
        assert answer.json() == {"detail": "the storage does not answer; try later"}


def test_more_requests_than_places_are_refused_before_they_are_read(clinic, cohort, monkeypatch):
    service = clinic(requests=1)
    backend, inside, go = service.service.backend, threading.Event(), threading.Event()
    files = [("images", ("a.png", sorted(cohort.rglob("*.png"))[1].read_bytes()))]

    def ask(data=files):
        return service.client.post("/v1/score", files=data, headers=service.a)

    async def waits(model, crops, score=backend.score):
        inside.set()
        await asyncio.to_thread(go.wait, 60)
        return await score(model, crops)

    monkeypatch.setattr(backend, "score", waits)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask)
        assert inside.wait(60)
        second = ask([("images", ("b.png", b"would be a mistake of its own"))] * 500)
        go.set()
        assert first.result().status_code == 200
    assert (second.status_code, second.headers["retry-after"]) == (429, "1")
    assert second.headers["x-content-type-options"] == "nosniff"
    noted = [json.loads(line) for line in next(service.service.audit.folder.iterdir()).open()]
    assert [(line["route"], line["status"], line["clinic"]) for line in noted[-2:]] == [
        ("/v1/score", 429, "clinic-a"),
        ("/v1/score", 200, "clinic-a"),
    ]
    assert ask().status_code == 200


def test_openapi_has_every_route_with_a_description_and_examples(clinic):
    service = clinic()
    found = service.client.get("/openapi.json", headers=service.a).json()
    operations = [o for path in found["paths"].values() for o in path.values()]
    assert len(operations) == 19
    for operation in operations:
        assert operation["description"]
        assert {"401", "422"} <= set(operation["responses"])
    job = found["components"]["schemas"]["JobState"]["properties"]
    assert job["stage"]["examples"] == ["scoring"]
    assert found["components"]["securitySchemes"]
