"""Who gets in where: every route against every kind of token, and what is written down of it."""

import json

import pytest

from fertiray.serving import tokens
from tests.serving.conftest import bearer, zipped

PUBLIC = {("GET", "/"), ("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/static/clinic.css")}
ANYBODY = {("GET", "/openapi.json"), ("GET", "/v1/models")}  # with a valid token
PAGE = {("GET", f"/v1/jobs/{{job_id}}{rest}/view") for rest in ("", "/patients/{number}")}
OPERATOR = {("GET", "/metrics")}


@pytest.fixture
def service(clinic, cohort):
    """A service in which clinic a has a finished job."""
    made = clinic()
    headers = {**made.a, "content-type": "application/zip"}
    job = made.client.post("/v1/jobs", content=zipped(cohort), headers=headers).json()
    made.work_off()
    patient = made.client.get(f"/v1/jobs/{job['id']}/patients/0", headers=made.a).json()
    crop = patient["results"][0]["pictures"][0]["crop_id"]
    upload = made.client.post("/v1/uploads", headers=made.a).json()["id"]
    made.fill = {"upload_id": upload, "job_id": job["id"], "number": "0", "crop_id": crop}
    made.sent = 0
    made.model = patient["results"][0]["row"]["model"]
    return made


def routes(service) -> list[tuple[str, str]]:
    """Every route there is, from the OpenAPI document."""
    paths = service.client.get("/openapi.json", headers=service.a).json()["paths"]
    found = [(method.upper(), path) for path, own in paths.items() for method in own]
    others = PUBLIC | ANYBODY | OPERATOR | PAGE
    # What ends the job comes last.
    return sorted({*found, *others}, key=lambda route: (route[0] == "DELETE", route))


def call(service, method: str, path: str, headers: dict[str, str]) -> int:
    options = {}
    if (method, path) == ("POST", "/v1/score"):
        options["json"] = {"images": ["AA=="]}
    elif (method, path) == ("POST", "/v1/jobs"):
        options |= {"content": b"PK\5\6" + bytes(18)}
        headers = {**headers, "content-type": "application/zip"}
    elif method == "PATCH":
        options |= {"params": {"offset": service.sent}, "content": b"x"}
    elif path.endswith("/heatmap"):
        options["params"] = {"model": service.model}
    where = path.format(**service.fill)
    return service.client.request(method, where, headers=headers, **options).status_code


def test_every_route_against_every_kind_of_token(service, monkeypatch):
    file = service.service.keyring.file
    ended, token = tokens.add(file, "clinic-a")
    values = json.loads(file.read_text())
    for entry in values["tokens"]:
        if entry["id"] == token.id:
            entry["expires"] = "2020-01-01T00:00:00+00:00"
    file.write_text(json.dumps(values))
    good = service.a["authorization"].removeprefix("Bearer ")
    revoked, gone = tokens.add(file, "clinic-a")
    tokens.revoke(file, gone.id)
    refused = {
        "none": {},
        "empty": {"authorization": "Bearer "},
        "basic": {"authorization": f"Basic {good}"},
        "wrong secret": bearer(good[:-2] + "xx"),
        "wrong id": bearer(good.replace("frt_", "frt_0")),
        "expired": bearer(ended),
        "revoked": bearer(revoked),
        "in the address": {},
    }
    known = routes(service)
    assert len(known) == 24
    for route in known:
        for kind, headers in refused.items():
            place = route[1] + (f"?token={good}" if kind == "in the address" else "")
            status = call(service, route[0], place, headers)
            assert (status != 401) == (route in PUBLIC), (route, kind, status)
        other, operator = (call(service, *route, who) for who in (service.b, service.operator))
        own_things = "{job_id}" in route[1] or "{upload_id}" in route[1]
        if own_things:
            assert other == 404, route
        if route not in PUBLIC | ANYBODY | OPERATOR:
            assert operator == 403, route
        own = call(service, *route, service.a)
        assert own == (403 if route in OPERATOR else own), route
        assert own < 300 or route in OPERATOR, (route, own)
        if route in OPERATOR:
            assert (other, operator) == (403, 200)
    listed = service.client.get("/v1/jobs", headers=service.b).json()["jobs"]
    assert service.fill["job_id"] not in {job["id"] for job in listed}


def test_a_route_that_is_not_there_says_no_more_than_one_that_is(service):
    for path in ("/nothing", "/v1", "/docs", "/redoc", "/v1/jobs/x/y", "/V1/JOBS"):
        assert service.client.get(path).status_code == 401
        assert service.client.get(path, headers=service.a).status_code == 404
    for path in ("/static/../v1/jobs", "/static/%2e%2e/index.html", "/static//etc/passwd"):
        assert service.client.get(path).status_code in (401, 404)


def test_metrics_and_openapi_open_only_when_told(clinic):
    made = clinic(open_paths=("/metrics", "/openapi.json"))
    assert made.client.get("/openapi.json").status_code == 200
    assert "# TYPE fertiray_service_jobs gauge" in made.client.get("/metrics").text
    assert made.client.get("/v1/jobs").status_code == 401


def test_every_answer_has_the_security_headers(service):
    for headers, path in (({}, "/"), ({}, "/v1/jobs"), (service.a, "/v1/jobs"), ({}, "/healthz")):
        answer = service.client.get(path, headers=headers)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        assert "strict-transport-security" not in answer.headers
    secure = service.client.get("https://testserver/healthz")
    assert secure.headers["strict-transport-security"]


def test_the_audit_log_tells_who_did_what_and_nothing_about_patients(service, cohort):
    base = f"/v1/jobs/{service.fill['job_id']}"
    service.client.get(f"{base}/patients/0?patient=P001", headers=service.a)
    service.client.get("/P001/secret", headers=service.a)
    service.client.get(f"{base}/result?label=P001")
    (file,) = service.service.audit.folder.glob("audit-*.jsonl")
    assert file.stat().st_mode & 0o077 == 0
    text = file.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    for patient in (folder.name for folder in cohort.iterdir() if folder.is_dir()):
        assert patient not in text
    assert "P001" not in text
    assert service.a["authorization"].rpartition("_")[2] not in text
    seen = lines[-3]
    assert seen["route"] == "/v1/jobs/{job_id}/patients/{number}"
    assert (seen["clinic"], seen["status"], seen["method"]) == ("clinic-a", 200, "GET")
    assert seen["job"] == service.fill["job_id"]
    assert lines[-2]["status"] == 404
    assert (lines[-1]["status"], lines[-1].get("clinic")) == (401, None)
    (ended,) = [line for line in lines if line["event"] == "job"]
    assert (ended["state"], ended["crops"]) == ("done", 60)
