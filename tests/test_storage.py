"""Local folders and S3 through the same functions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fertiray import storage
from fertiray.errors import InputError


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else request.getfixturevalue("s3")


def test_written_bytes_are_read_back(place: str) -> None:
    file = storage.join(place, "a", "b.bin")
    assert not storage.exists(file)
    storage.write_bytes(file, b"one")
    storage.write_bytes(file, b"two")
    assert storage.exists(file)
    assert storage.exists(storage.join(place, "a"))
    assert storage.read_bytes(file) == b"two"


def test_files_are_listed_sorted_without_hidden_ones(place: str) -> None:
    for name in ("b/2.txt", "b/1.txt", "a.txt", "a.csv", ".hidden/x.txt", "b/.y.txt"):
        storage.write_bytes(storage.join(place, name), b"x")
    found = storage.list_files(place, ".txt")
    assert [storage.relative(file, place) for file in found] == ["a.txt", "b/1.txt", "b/2.txt"]
    assert [storage.read_bytes(file) for file in found] == [b"x"] * 3
    assert storage.list_files(storage.join(place, "none")) == []


def test_files_of_another_process_are_seen(place: str) -> None:
    storage.write_bytes(storage.join(place, "a.txt"), b"x")
    assert len(storage.list_files(place)) == 1
    if storage.is_remote(place):
        import s3fs

        other = s3fs.S3FileSystem(skip_instance_cache=True)
        other.pipe_file(storage.join(place, "b.txt"), b"x")
    else:
        Path(place, "b.txt").write_bytes(b"x")
    assert len(storage.list_files(place)) == 2


def test_removing(place: str) -> None:
    storage.write_bytes(storage.join(place, "a", "b.txt"), b"x")
    storage.remove(storage.join(place, "a"))
    storage.remove(storage.join(place, "never-there"))
    assert storage.list_files(place) == []


def test_reading_what_is_not_there(place: str) -> None:
    with pytest.raises(InputError, match=r"nothing\.bin: no such file"):
        storage.read_bytes(storage.join(place, "nothing.bin"))


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.bin"
    storage.write_bytes(file, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"No space.*free space"):
        storage.write_bytes(file, b"new")
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_writing_where_it_cannot_be(tmp_path: Path, s3_server: str) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for file in (tmp_path / "file" / "below", "s3://no-such-bucket-here/a"):
        with pytest.raises(InputError, match="cannot be written"):
            storage.write_bytes(file, b"x")


def test_unknown_scheme() -> None:
    with pytest.raises(InputError, match="unsupported scheme 'gs'"):
        storage.filesystem("gs://bucket/key")


def test_s3_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, s3_server: str) -> None:
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # the discard port: refused
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(InputError, match=r"s3://bucket/key: cannot be reached .*AWS_ENDPOINT"):
            storage.exists("s3://bucket/key")
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
