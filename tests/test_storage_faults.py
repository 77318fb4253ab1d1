"""Storage that fails: for a moment, for good, half-way, or because it is full."""

from __future__ import annotations

import errno
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fertiray import s3 as asking
from fertiray import storage
from fertiray.bench.chaos import faulty_s3
from fertiray.bench.chaos.faulty_s3 import FaultyS3
from fertiray.data import crops
from fertiray.errors import InputError, StorageError


@pytest.fixture
def proxy(s3: str, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """Clients made in the test find the S3 server through a proxy that is faultless so far."""
    with FaultyS3(s3_server) as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL", found.endpoint)
        monkeypatch.setattr(faulty_s3, "DELAY_S", 0.05)
        yield found


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "PATIENCE", 0.5)


def fill(store: str, rows: int = 40) -> str:
    with crops.StoreWriter(store) as writer:
        for number in range(rows):
            image = bytes([number % 256]) * 2000
            ids = {"patient_id": "P", "slide_id": "S", "crop_id": str(number)}
            writer.add({**ids, "image": image})
    return store


def read(store: str) -> list[tuple[str, bytes]]:
    return [(row["crop_id"], row["image"]) for row in crops.iter_rows(store, ["crop_id", "image"])]


@pytest.mark.parametrize("kind", faulty_s3.PASSING)
def test_each_passing_fault_is_ridden_out(s3: str, proxy: FaultyS3, kind: str, monkeypatch) -> None:
    """Two of five requests are spoilt: each function of the storage still does its work."""
    monkeypatch.setattr(faulty_s3, "PASSING", (kind,))
    proxy.faults, proxy.seed = 0.4, 4
    folder = storage.join(s3, "folder")
    for number in range(4):
        storage.write_bytes(storage.join(folder, f"{number}.bin"), bytes([number]) * 5000)
    files = storage.list_files(folder)
    assert [storage.read_bytes(file) for file in files] == [bytes([n]) * 5000 for n in range(4)]
    store = fill(storage.join(s3, "store"))
    assert read(store) == [(str(number), bytes([number]) * 2000) for number in range(40)]
    fs, path = storage.filesystem(files[0])
    assert fs.size(path) == 5000
    storage.remove(folder)
    assert not storage.exists(folder)
    assert proxy.faults_served()[kind] > 5
    # A late answer is an answer; every request that failed was made again.
    assert proxy.retries() == (0 if kind == "slow" else proxy.faults_served()[kind])


def test_a_large_object_is_whole_or_absent(s3: str, proxy: FaultyS3, monkeypatch) -> None:
    monkeypatch.setattr(storage, "PART", 5 * 2**20)  # the least that S3 takes
    file, data = storage.join(s3, "large.bin"), os.urandom(11 * 2**20)
    proxy.faults, proxy.seed = 0.4, 4
    storage.write_bytes(file, data)
    assert sum("partNumber" in entry.path for entry in proxy.log) > 3  # a part was sent again
    assert storage.read_bytes(file) == data
    proxy.faults = 0.0
    monkeypatch.setattr(asking, "PATIENCE", 0.2)
    other = storage.join(s3, "other.bin")

    def breaks_at_the_second_part(method: str, path: str, part: str) -> str | None:
        return "503" if "partNumber=2" in path else None

    with monkeypatch.context() as patch:
        patch.setattr(proxy, "fault_for", breaks_at_the_second_part)
        with pytest.raises(StorageError, match=r"other\.bin: cannot be reached .*SlowDown"):
            storage.write_bytes(other, data)
    assert not storage.exists(other)
    fs, path = storage.filesystem(other)
    assert fs._strip_protocol(other) == path
    uploads = fs.call_s3("list_multipart_uploads", Bucket=path.partition("/")[0])
    assert "Uploads" not in uploads  # its parts are deleted as well


@pytest.mark.parametrize("kind", ["drop", "503"])
@pytest.mark.usefixtures("impatient")
def test_an_outage_is_one_line_in_bounded_time(s3: str, proxy: FaultyS3, kind: str) -> None:
    store = fill(storage.join(s3, "store"))
    file = storage.join(store, "part-00000.parquet")
    (group,) = crops.row_groups(store)
    asked = [
        lambda: storage.exists(store),
        lambda: storage.exists(s3),  # a bucket; s3fs's own exists would say no
        lambda: storage.list_files(s3),
        lambda: storage.read_bytes(file),
        lambda: storage.write_bytes(file, b"x"),
        lambda: storage.remove(file),
        lambda: crops.row_groups(store),
        lambda: crops.read_row_group(store, group),
    ]
    proxy.always = kind
    for ask in asked:
        started = time.monotonic()
        with pytest.raises(StorageError, match=r"^s3://bucket-.*: cannot be reached ") as caught:
            ask()
        assert time.monotonic() - started < 20
        assert "run the same command again" in str(caught.value)
        assert "\n" not in str(caught.value)
    proxy.always = None
    assert len(read(store)) == 40


@pytest.mark.usefixtures("impatient")
def test_an_outage_in_the_middle_of_a_part(s3: str, proxy: FaultyS3) -> None:
    """The error crosses Arrow's own reading code and is not taken for damage."""
    store = fill(storage.join(s3, "store"), 2000)
    first, _ = crops.row_groups(store)
    with crops._opened(storage.join(store, first.file)) as part:
        proxy.always = "drop"
        with pytest.raises(StorageError, match="cannot be reached"):
            part.read_row_group(1)


def test_storage_that_does_not_answer(s3: str, proxy: FaultyS3, monkeypatch) -> None:
    monkeypatch.setattr(asking, "PATIENCE", 0.5)
    monkeypatch.setattr(asking.patient_s3(), "read_timeout", 0.5)
    proxy.always = "hang"
    started = time.monotonic()
    with pytest.raises(StorageError, match=r"cannot be reached .*timeout"):
        storage.read_bytes(storage.join(s3, "a"))
    assert time.monotonic() - started < 20


def test_an_upload_that_is_not_taken(s3: str, proxy: FaultyS3, monkeypatch) -> None:
    """More than the connection's buffers hold, sent to somebody who never reads."""
    monkeypatch.setattr(asking, "PATIENCE", 0.1)
    monkeypatch.setattr(asking, "SEND_BASE_S", 1.0)
    monkeypatch.setattr(asking, "SEND_S_PER_MIB", 0.0)
    monkeypatch.setattr(
        faulty_s3._Handler, "_body", lambda handler: handler.server.closing.wait(60)
    )
    started = time.monotonic()
    with pytest.raises(StorageError, match="cannot be reached"):
        storage.write_bytes(storage.join(s3, "a"), bytes(32 * 2**20))
    assert time.monotonic() - started < 20


def test_expired_credentials_are_not_tried_again(s3: str, proxy: FaultyS3) -> None:
    store = fill(storage.join(s3, "store"))
    (group,) = crops.row_groups(store)
    before = len(proxy.log)
    proxy.always = "expired"
    for asked in (
        lambda: storage.read_bytes(storage.join(store, "a")),
        lambda: storage.write_bytes(storage.join(store, "a"), b"x"),
        lambda: storage.list_files(store),
        lambda: storage.exists(store),
        lambda: crops.read_row_group(store, group),
    ):
        with pytest.raises(StorageError, match=r"^s3://\S+: refused .*check the AWS credentials"):
            asked()
    assert len(proxy.log) - before == 5


def test_an_answer_that_is_not_s3s(s3: str, proxy: FaultyS3, monkeypatch) -> None:
    """A proxy's own page, with status 200, in place of a listing; botocore makes a 500 of it."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    proxy.always = "500"
    monkeypatch.setitem(faulty_s3._CODES, "500", (200, "<p>", ""))
    with pytest.raises(StorageError, match=r"cannot be reached .*ListObjectsV2"):
        storage.list_files(s3)
    assert len(proxy.log) == 2


def test_a_useless_endpoint(monkeypatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    with pytest.raises(StorageError, match=r"s3://b/a: refused .*localhost:9000.*AWS_ENDPOINT_URL"):
        storage.exists("s3://b/a")


def test_what_vanished_is_not_sought_again(s3: str, proxy: FaultyS3) -> None:
    store = fill(storage.join(s3, "store"))
    (group,) = crops.row_groups(store)
    storage.remove(storage.join(store, group.file))
    before = len(proxy.log)
    with pytest.raises(InputError, match=r"part-00000\.parquet: no such file; was the store"):
        crops.read_row_group(store, group)
    assert len(proxy.log) - before <= 2  # is it a file? a folder?


def test_what_another_process_wrote_is_seen_after_a_listing(s3: str, proxy: FaultyS3) -> None:
    import s3fs

    folder = storage.join(s3, "scores")
    storage.write_bytes(storage.join(folder, "a"), b"x")
    assert len(storage.list_files(folder)) == 1
    other = s3fs.S3FileSystem(skip_instance_cache=True)
    other.pipe_file(storage.join(folder, "b"), b"longer")
    other.rm_file(storage.join(folder, "a"))
    fs, path = storage.filesystem(folder)
    assert storage.exists(storage.join(folder, "b"))
    assert (fs.exists(path + "/a"), fs.size(path + "/b")) == (False, 6)


def test_a_part_that_is_replaced_while_it_is_read(s3: str, proxy: FaultyS3) -> None:
    store = fill(storage.join(s3, "store"), 2000)
    fs, path = storage.filesystem(storage.join(store, "part-00000.parquet"))
    with fs.open(path, "rb", block_size=1000) as file:
        file.read(10)
        storage.write_bytes(storage.join(store, "part-00000.parquet"), b"new" * 100000)
        with pytest.raises(StorageError, match="was replaced while it was read"):
            file.seek(200000) and file.read(10)


def test_what_s3_keeps_although_it_was_to_be_deleted(s3: str, monkeypatch) -> None:
    """S3 answers a deletion of many objects with 200 and lists in it those that it kept."""
    folder = storage.join(s3, "scores")
    storage.write_bytes(storage.join(folder, "a"), b"x")
    fs, _ = storage.filesystem(folder)
    monkeypatch.setattr(fs, "_bulk_delete", _kept_all)
    with pytest.raises(StorageError, match=r"scores: not all of it could be deleted"):
        storage.remove(folder)


async def _kept_all(*_: object) -> list[str]:
    return []


@pytest.mark.parametrize(("kind", "requests"), [("500", 3), ("drop", 6)])
def test_a_limit_of_the_user_is_kept(s3, proxy: FaultyS3, kind, requests, monkeypatch) -> None:
    """Neither s3fs nor botocore repeats requests; aiohttp does, once, where no answer came."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    proxy.always = kind
    with pytest.raises(StorageError, match="cannot be reached"):
        storage.read_bytes(storage.join(s3, "a"))
    assert len(proxy.log) == requests


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.bin"
    storage.write_bytes(file, b"old")

    def full(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"a\.bin: no room to write .*free space .*same command"):
        storage.write_bytes(file, b"new")
    assert (file.read_bytes(), os.listdir(tmp_path)) == (b"old", ["a.bin"])


@pytest.mark.parametrize(
    ("code", "said"),
    [(errno.EROFS, "give another place"), (errno.EIO, "check the disk.*same command again")],
)
def test_a_disk_that_does_not_take_it(code: int, said: str, tmp_path: Path, monkeypatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", fails)
    with pytest.raises(InputError, match=rf"a\.bin: cannot be written .*{said}"):
        storage.write_bytes(tmp_path / "a.bin", b"x")


def test_a_file_larger_than_is_allowed(tmp_path: Path) -> None:
    """The system's own limit (``ulimit -f``), nothing put in its place."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StorageError, match=r"a\.bin: no room to write"):
            storage.write_bytes(tmp_path / "a.bin", bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = fill(str(tmp_path / "store"))
    crops.write_rejects(store, 0, [{"reason": "empty", "error": "empty: no bytes"}])
    rejects = tmp_path / "store" / "rejects" / "part-00000.parquet"
    rejects.write_bytes(rejects.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"rejects/part-00000\.parquet: cannot be read as Parquet"):
        [*crops.read_rejects(store)]
    with pytest.raises(InputError, match=r"store: cannot be read \(.*Is a directory"):
        storage.read_bytes(store)

    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    fs, _ = storage.filesystem(store)
    monkeypatch.setattr(type(fs), "open", fails)
    with pytest.raises(InputError, match=r"part-00000\.parquet: cannot be read \(Input/output"):
        crops.row_groups(store)
    monkeypatch.setattr(type(fs), "ls", fails)
    with pytest.raises(InputError, match=r"store: cannot be listed \(.*Input/output error"):
        storage.list_files(store)
