"""Folders of crops into the store: nothing is lost, nothing is counted twice."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fertiray import storage
from fertiray.data import crops, ingest, manifest
from fertiray.data.images import CROP, decode, encode_png
from fertiray.errors import InputError


def crop(seed: int, size: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)


def encoded(seed: int, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(crop(seed)).save(buffer, kind)
    return buffer.getvalue()


def put(folder: str | Path, files: dict[str, bytes]) -> str:
    for name, data in files.items():
        storage.write_bytes(storage.join(folder, name), data)
    return str(folder)


GOOD = {
    "P1/S1/a.png": encoded(1, "PNG"),
    "P1/S1/b.jpg": encoded(2, "JPEG"),
    "P1/S2/a.tif": encoded(3, "TIFF"),
    "P2/S1/a.bmp": encoded(4, "BMP"),
    "P2/S1/b.webp": encoded(5, "WEBP"),
}
UNDECODABLE = {
    "P2/S1/c.png": (GOOD["P1/S1/a.png"][:-40], "truncated"),
    "P2/S1/d.png": (b"", "empty"),
    "P2/S1/e.jpg": (GOOD["P1/S1/a.png"], "wrong-extension"),
    "P2/S1/f.txt": (b"a note", "not-an-image"),
}
BAD = {name: data for name, (data, _) in UNDECODABLE.items()}


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else request.getfixturevalue("s3")


def contents(store: str) -> dict[str, bytes]:
    """Every file of a store but its record, whose only difference may be where it lies."""
    return {
        storage.relative(file, store): storage.read_bytes(file)
        for file in storage.list_files(store)
        if not file.endswith(".json")
    }


def test_bytes_are_kept_and_the_undecodable_are_rows_and_rejects(root: str) -> None:
    folder = put(storage.join(root, "in"), {**GOOD, **BAD, "labels.csv": b"image,label"})
    store = storage.join(root, "store")
    calls: list[tuple[int, int]] = []
    result = ingest.ingest(folder, store, progress=lambda done, all_: calls.append((done, all_)))
    rows = list(crops.iter_rows(store))
    files = {**GOOD, **BAD}
    assert [row["image"] for row in rows] == [files[name] for name in sorted(files)]
    assert [(row["patient_id"], row["slide_id"]) for row in rows[:3]] == [
        ("P1", "S1"),
        ("P1", "S1"),
        ("P1", "S2"),
    ]
    assert [row["width"] for row in rows] == [24] * 5 + [None] * 4
    assert len({row["crop_id"] for row in rows}) == 9
    expected = {"files": 9, "crops": 9, "rejected": 4, "patients": 2, "duplicates": 0}
    assert {name: result[name] for name in expected} == expected
    reasons = sorted(reason for _, reason in UNDECODABLE.values())
    assert result["rejected_by_reason"] == dict.fromkeys(reasons, 1)
    assert calls[-1] == (9, 9)
    (rejects,) = crops.read_rejects(store)
    ids = {row["crop_id"]: row["image"] for row in rows}
    for reject in rejects.to_pylist():
        data, reason = UNDECODABLE[reject["field"]]
        assert (reject["patient_id"], reject["slide_id"], reject["stage"]) == ("P2", "S1", "decode")
        assert reject["reason"] == reason
        assert reject["error"].startswith(f"{reason}: ")
        assert ids[reject["crop_id"]] == data
    record = manifest.read(store)
    assert record["made_by"] == "ingest"
    assert record["counts"]["crops"] == 9


def test_what_cannot_be_stored_is_in_the_rejects_alone(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    put(folder, {"I-P1-a.png": GOOD["P1/S1/a.png"], "other.png": GOOD["P1/S1/a.png"]})
    with (folder / "I-P1-big.png").open("wb") as file:
        file.truncate(CROP.max_bytes + 1)
    (folder / "I-P1-link.png").symlink_to("/etc/hostname")
    (folder / "I-P1-round.png").symlink_to("I-P1-round.png")
    result = ingest.ingest(str(folder), str(tmp_path / "store"), group_by=r"I-(P\d)")
    assert (result["files"], result["crops"], result["rejected"]) == (5, 1, 4)
    (rejects,) = crops.read_rejects(str(tmp_path / "store"))
    found = {
        row["field"]: (row["stage"], row["reason"], row["error"]) for row in rejects.to_pylist()
    }
    assert found["I-P1-big.png"][:2] == ("read", "too-many-bytes")
    assert found["I-P1-link.png"][:2] == ("read", "unreadable")
    assert "leads out of the input folder" in found["I-P1-link.png"][2]
    assert found["I-P1-round.png"] == ("read", "unreadable", "not a regular file")
    assert "does not match" in found["other.png"][2]
    assert rejects.column("crop_id").null_count == 4


def test_a_file_that_vanishes_is_a_reject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = put(tmp_path / "in", GOOD)
    read = storage.read_bytes

    def gone(location: str) -> bytes:
        if location.endswith("a.tif"):
            raise PermissionError(13, "Permission denied")
        return read(location)

    monkeypatch.setattr(ingest.storage, "read_bytes", gone)
    result = ingest.ingest(folder, str(tmp_path / "store"))
    assert (result["crops"], result["rejected_by_reason"]) == (4, {"unreadable": 1})


def test_the_same_input_gives_the_same_store_wherever_it_lies(tmp_path: Path) -> None:
    stores = []
    for name in ("one", "two/three"):
        folder = put(tmp_path / name / "in", {**GOOD, **BAD})
        ingest.ingest(folder, str(tmp_path / name / "store"))
        stores.append(contents(str(tmp_path / name / "store")))
    assert stores[0] == stores[1]
    assert len(stores[0]) == 2


def test_equal_pixels_are_reported_with_both_ids_and_kept(tmp_path: Path) -> None:
    folder = put(
        tmp_path / "in",
        {
            "P1/S1/a.png": encoded(1, "PNG"),
            "P1/S1/b.png": encode_png(crop(1)),  # other bytes, same pixels
            "P2/S1/a.bmp": encoded(1, "BMP"),
            "P2/S1/b.png": encoded(2, "PNG"),
            "P2/S1/empty.png": b"",
            "P2/S1/empty too.png": b"",
        },
    )
    store = str(tmp_path / "store")
    result = ingest.ingest(folder, store)
    assert (result["crops"], result["duplicates"], result["duplicates_across_patients"]) == (
        6,
        2,
        1,
    )
    ids = {row["crop_id"] for row in crops.iter_rows(store, ["crop_id"])}
    assert len(ids) == 6
    for pair in result["duplicate_examples"]:
        assert {pair["crop_id"], pair["same_as"]} <= ids
        assert pair["crop_id"] != pair["same_as"]
    assert len(storage.list_files(result["duplicates_file"])) == 1


def many(folder: Path, number: int) -> str:
    return put(folder, {f"P{n % 3}/S1/{n:03d}.png": encoded(n % 40, "PNG") for n in range(number)})


def test_an_interrupted_ingest_ends_as_if_undisturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crops, "PART_ROWS", 10)
    folder = many(tmp_path / "in", 55)
    put(folder, {"P1/S1/900.png": b"broken"})
    straight = ingest.ingest(folder, str(tmp_path / "straight"))

    def stop(done: int, _: int) -> None:
        if done >= 30:
            raise KeyboardInterrupt

    store = str(tmp_path / "store")
    with pytest.raises(KeyboardInterrupt):
        ingest.ingest(folder, store, progress=stop)
    assert len(crops.parts(store)) == 3
    first = Path(store, crops.part_name(0)).stat().st_mtime_ns
    resumed = ingest.ingest(folder, store)
    assert contents(store) == contents(str(tmp_path / "straight"))
    assert Path(store, crops.part_name(0)).stat().st_mtime_ns == first
    own = (
        "crops",
        "rejected",
        "rejected_by_reason",
        "patients",
        "duplicates",
        "duplicate_examples",
    )
    assert {name: resumed[name] for name in own} == {name: straight[name] for name in own}


def test_another_input_or_other_settings_are_refused_not_mixed(tmp_path: Path) -> None:
    folder = put(tmp_path / "in", {"P1/S1/P7-a.png": GOOD["P1/S1/a.png"]})
    store = str(tmp_path / "store")
    ingest.ingest(folder, store)
    with pytest.raises(
        InputError, match=r"made with group_by = None, asked for 'P\\\\d'; give ano"
    ):
        ingest.ingest(folder, store, group_by=r"P\d")
    put(folder, {"P1/S1/more.png": GOOD["P1/S1/a.png"]})
    with pytest.raises(InputError, match="made with files = 1, asked for 2"):
        ingest.ingest(folder, store)
    assert ingest.ingest(folder, store, resume=False)["crops"] == 2
    assert [row["patient_id"] for row in crops.iter_rows(store)] == ["P1", "P1"]


def test_starting_afresh_leaves_nothing_of_the_old_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = str(tmp_path / "store")
    with monkeypatch.context() as patch:
        patch.setattr(crops, "PART_ROWS", 10)
        put(tmp_path / "in", {"P1/S1/bad.png": b"x"})
        ingest.ingest(many(tmp_path / "in", 55), store)
    ingest.ingest(put(tmp_path / "other", GOOD), store, resume=False)
    assert list(contents(store)) == ["part-00000.parquet"]


def test_folders_that_are_not_ours_are_left_alone(tmp_path: Path) -> None:
    folder = put(tmp_path / "in", GOOD)
    put(tmp_path / "foreign", {"part-0.parquet": b"somebody's"})
    put(tmp_path / "record", {"store.json": json.dumps({"kind": "shop"}).encode()})
    for name, said in (
        ("foreign", r"no store\.json"),
        ("record", "not the record of a crop store"),
    ):
        for resume in (True, False):
            with pytest.raises(InputError, match=said):
                ingest.ingest(folder, str(tmp_path / name), resume=resume)
    assert (tmp_path / "foreign" / "part-0.parquet").read_bytes() == b"somebody's"


def test_a_store_of_rejects_only_can_be_made(tmp_path: Path) -> None:
    folder = put(tmp_path / "in", {"a.png": b""})
    (tmp_path / "in" / "b.png").symlink_to("/etc/hostname")
    (tmp_path / "in" / "a.png").unlink()
    result = ingest.ingest(folder, str(tmp_path / "store"))
    assert (result["crops"], result["rejected"], result["patients"]) == (0, 1, 0)


def test_memory_does_not_grow_with_the_number_of_files(tmp_path: Path) -> None:
    code = """
import resource, sys
from fertiray.data import crops, ingest
crops.PART_ROWS = 200
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ingest.ingest(sys.argv[1], sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    data = [encode_png(crop(seed, 128)) for seed in range(20)]  # 49 kB each: noise
    peaks = []
    for number in (800, 3200):
        folder = tmp_path / str(number)
        folder.mkdir()
        for n in range(number):
            (folder / f"{n:05d}.png").write_bytes(data[n % 20])
        command = [sys.executable, "-c", code, str(folder), str(tmp_path / f"store{number}")]
        peaks.append(
            int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
        )
    assert peaks[1] < 1.1 * peaks[0]  # 118 MB more would be in memory if nothing were let go


def test_ids_are_those_of_an_earlier_version(tmp_path: Path) -> None:
    """The id is a promise: computed here by hand from its definition."""
    folder = put(tmp_path / "in", {"P1/S1/a.png": encoded(1, "PNG")})
    ingest.ingest(folder, str(tmp_path / "store"))
    ((found,),) = ([row["crop_id"]] for row in crops.iter_rows(str(tmp_path / "store")))
    pixels = decode(encoded(1, "PNG"))
    content = hashlib.sha256(b"(24, 24, 3)" + pixels.tobytes()).hexdigest()[:16]
    place = hashlib.blake2b(b"P1\0S1\0P1/S1/a.png", digest_size=6).hexdigest()
    assert found == f"{content}-{place}"
