"""The S3 that misbehaves, and scoring on it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from http.client import HTTPResponse, IncompleteRead
from pathlib import Path
from typing import Any

import pytest

from fertiray import storage
from fertiray.bench.chaos import faulty_s3
from fertiray.bench.chaos.faulty_s3 import FaultyS3
from fertiray.bench.chaos.storage_faults import (
    BUCKET,
    PARTS,
    ROWS,
    SPOILT,
    empty_server,
    storage_faults,
)

# The server reads who asks from it, and verifies no signature.
SIGNED = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, Signature=0"


def asked(url: str, method: str = "GET", data: Any = None, **headers: str) -> HTTPResponse:
    own = {"Authorization": SIGNED, "Content-Type": "binary/octet-stream", **headers}
    return urllib.request.urlopen(
        urllib.request.Request(url, data=data, headers=own, method=method), timeout=20
    )


def test_a_proxy_without_faults_changes_nothing(s3: str, s3_server: str) -> None:
    """An object of odd name and content: bytes, headers and query are the server's own."""
    name = "a folder/ü+%25=&?.bin"
    data = bytes(range(256)) * 100
    with FaultyS3(s3_server) as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        storage.write_bytes(storage.join(s3, name), data)
        assert storage.read_bytes(storage.join(s3, name)) == data
        assert storage.list_files(s3) == [storage.join(s3, name)]
        url = s3.replace("s3:/", proxy.endpoint) + "/a%20folder/%C3%BC%2B%2525%3D%26%3F.bin"
        own = url.replace(proxy.endpoint, s3_server)
        for method in ("GET", "HEAD"):
            answers = []
            for place in (url, own):
                part = {"Range": "bytes=10-19"} if method == "GET" else {}
                with asked(place, method, **part) as answer:
                    kept = {"ETag", "Content-Length", "Last-Modified", "Content-Range"}
                    headers = {key: answer.headers[key] for key in kept}
                    answers.append((answer.status, headers, answer.read()))
            assert answers[0] == answers[1]
        assert proxy.faults_served() == {}
    assert storage.read_bytes(storage.join(s3, name)) == data


def test_a_body_in_chunks_is_passed_on(s3: str, s3_server: str) -> None:
    with FaultyS3(s3_server) as proxy:
        url = s3.replace("s3:/", proxy.endpoint) + "/a"
        pieces = iter([b"one ", b"two"])  # an iterator: urllib sends it in chunks
        asked(url, "PUT", pieces).close()
        assert asked(url).read() == b"one two"


def test_each_fault_is_what_it_says(s3: str, s3_server: str, monkeypatch) -> None:
    storage.write_bytes(storage.join(s3, "a"), b"x" * 1000)
    monkeypatch.setattr(faulty_s3, "DELAY_S", 0.01)
    with FaultyS3(s3_server) as proxy:
        url = s3.replace("s3:/", proxy.endpoint) + "/a"
        for kind, status, code in (
            ("500", 500, b"InternalError"),
            ("503", 503, b"SlowDown"),
            ("expired", 403, b"ExpiredToken"),
        ):
            proxy.always = kind
            with pytest.raises(urllib.error.HTTPError) as refused:
                asked(url)
            assert (refused.value.code, code in refused.value.read()) == (status, True)
        proxy.always = "slow"
        assert asked(url).read() == b"x" * 1000
        proxy.always = "cut"
        with pytest.raises(IncompleteRead) as broken:
            asked(url).read()
        assert (broken.value.partial, broken.value.expected) == (b"x" * 500, 500)
        for kind, carried_out in (("drop", True), ("cut", False)):  # whether it is still there
            proxy.always = kind
            with pytest.raises(ConnectionError):
                asked(url, "DELETE")
            assert storage.exists(storage.join(s3, "a")) == carried_out
        assert proxy.faults_served() == {
            "500": 1,
            "503": 1,
            "cut": 2,
            "drop": 1,
            "expired": 1,
            "slow": 1,
        }


def test_faults_depend_on_the_seed_and_the_request_alone() -> None:
    asked = [("GET", f"/b/{n % 50}", "") for n in range(1000)]

    def drawn(seed: int, order: list[tuple[str, str, str]]) -> list[tuple[object, ...]]:
        with FaultyS3("http://127.0.0.1:9", faults=0.2, seed=seed) as proxy:
            for request in order:
                proxy.fault_for(*request)
            return sorted((entry.path, entry.fault or "") for entry in proxy.log)

    once = drawn(1, asked)
    assert once == drawn(1, asked[::-1])
    assert once != drawn(2, asked)
    # 1000 draws of 0.2: 200 expected, standard deviation 12.6
    assert 150 < sum(fault != "" for _, fault in once) < 250
    assert {fault for _, fault in once} == {"", *faulty_s3.PASSING}


def test_every_server_begins_empty() -> None:
    for _ in range(2):
        with empty_server() as (client, _):
            assert client.list_objects_v2(Bucket=BUCKET)["KeyCount"] == 0
            client.put_object(Bucket=BUCKET, Key="run/scores/a", Body=b"1")


@pytest.mark.slow
@pytest.mark.parametrize(
    "on_ray", [False, pytest.param(True, marks=pytest.mark.ray)], ids=["local", "ray"]
)
def test_scoring_on_faulty_storage_loses_nothing(
    on_ray: bool, tmp_path: Path, zona_checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    said: list[str] = []
    found = storage_faults(
        tmp_path, checkpoint=zona_checkpoint, faults=0.15, on_ray=on_ray, say=said.append
    )
    wrong = [found[key] for key in ("lost", "duplicated", "crashes", "hangs")]
    assert wrong == [0, 0, 0, 0], json.dumps(found, indent=1)
    faulty = found["faulty"]
    assert faulty["equal"]
    assert set(faulty["faults"]) == set(faulty_s3.PASSING)
    failed = sum(number for kind, number in faulty["faults"].items() if kind != "slow")
    assert faulty["retries"] == failed
    for name, line in {
        "outage": "cannot be reached",
        "vanished": "part-00015.parquet: no such file; was the store changed meanwhile?",
        "expired": "refused",
        "truncated": "part-00003.parquet: cannot be read as Parquet",
        "other_columns": "part-00003.parquet: no column 'image'",
    }.items():
        assert (found[name]["exit"], line in found[name]["line"]) == (2, True), found[name]
    assert found["expired"]["seconds"] < 60  # credentials are not tried again
    for name in ("outage", "vanished"):
        again = found[name]["again"]
        assert (again["exit"], again["equal"]) == (0, True)
        assert ROWS * 3 <= again["resumed"] < ROWS * PARTS
    assert PARTS * ROWS > SPOILT  # so there are rejects among the rows that are equal
    assert len(said) == 7
