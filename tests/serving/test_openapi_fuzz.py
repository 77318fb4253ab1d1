"""Requests drawn from the OpenAPI document, right and wrong ones: never a server error."""

import pytest

schemathesis = pytest.importorskip("schemathesis", reason="pip install -e '.[dev]'")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis.errors import Unsatisfiable  # noqa: E402
from schemathesis import GenerationMode  # noqa: E402
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi.checks import (  # noqa: E402
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.serving.conftest import zipped  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture
def fuzzed(clinic, cohort):
    """The interface's schema, of a service in which there is a finished job."""
    made = clinic(uploads=100_000, waiting=100_000, waiting_of_one=100_000)
    headers = {**made.a, "content-type": "application/zip"}
    made.client.post("/v1/jobs", content=zipped(cohort), headers=headers)
    made.work_off()
    jobs = made.client.get("/v1/jobs", headers=made.a).json()["jobs"]
    found = made.client.get("/openapi.json", headers=made.a).json()
    # Half of the requests name what is there, so that they get further than "no such job".
    patient = made.client.get(f"/v1/jobs/{jobs[0]['id']}/patients/0", headers=made.a).json()
    result = patient["results"][0]
    known = {
        "job_id": jobs[0]["id"],
        "crop_id": result["pictures"][0]["crop_id"],
        "model": result["row"]["model"],
        "upload_id": made.client.post("/v1/uploads", headers=made.a).json()["id"],
    }
    for path in found["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", []):
                if parameter["name"] in known:
                    schema = {"type": "string"}
                    parameter["schema"] = {"anyOf": [{"const": known[parameter["name"]]}, schema]}
    loaded = schemathesis.openapi.from_dict(found)
    loaded.app = made.client.app
    loaded.headers_of_a = made.a
    return loaded


CHECKED = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_no_request_makes_a_server_error(fuzzed, mode):
    operations = [result.ok() for result in fuzzed.get_all_operations()]
    assert len(operations) == 19
    for operation in operations:

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
        def check(case):
            if (case.method, case.path) == ("DELETE", "/v1/jobs/{job_id}"):
                case.path_parameters["job_id"] = "none"  # the others need the finished job
            case.call_and_validate(checks=CHECKED, headers=fuzzed.headers_of_a)

        try:
            check()
        except Unsatisfiable:  # an operation that cannot be called in a wrong way
            assert mode == GenerationMode.NEGATIVE
