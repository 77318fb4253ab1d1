"""The crop store: parts, row groups, and what a damaged or foreign file says."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fertiray import storage
from fertiray.data import crops, duplicates
from fertiray.data.crops import (
    PART_ROWS,
    ROW_GROUP,
    SCHEMA,
    RowGroup,
    StoreWriter,
    crop_id,
    is_store,
    iter_batches,
    iter_rows,
    read_row_group,
    row_groups,
)
from fertiray.errors import InputError


def row(number: int, size: int = 40) -> dict[str, object]:
    rng = np.random.default_rng(number)
    image = rng.bytes(size)
    return {
        "patient_id": f"P{number % 3}",
        "slide_id": "slide-1",
        "crop_id": crop_id(hashlib.sha256(image).hexdigest(), str(number)),
        "image": image,
        "width": 128,
        "height": 128,
    }


def fill(location: str, rows: int) -> str:
    with StoreWriter(location) as writer:
        for number in range(rows):
            writer.add(row(number))
    return location


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    root = str(tmp_path) if request.param == "local" else request.getfixturevalue("s3")
    return storage.join(root, "store")


def test_rows_come_back_in_order(place: str) -> None:
    rows = PART_ROWS + ROW_GROUP + 10
    fill(place, rows)
    groups = row_groups(place)
    parts = ["part-00000.parquet"] * 4 + ["part-00001.parquet"] * 2
    assert [group.file for group in groups] == parts
    assert [group.index for group in groups] == [0, 1, 2, 3, 0, 1]
    assert [group.rows for group in groups] == [ROW_GROUP] * 5 + [10]
    names = ["crop_id", "image"]
    for number, found in enumerate(iter_rows(place, names)):
        expected = row(number)
        assert found == {name: expected[name] for name in names}
    assert number == rows - 1


def test_a_row_group_is_read_by_itself_in_batches(place: str) -> None:
    fill(place, ROW_GROUP + 300)
    group = row_groups(place)[1]
    batches = list(iter_batches(place, group, ["patient_id", "contour", "crop_id"], 128))
    assert [len(batch) for batch in batches] == [128, 128, 44]
    assert batches[0].schema.names == ["patient_id", "contour", "crop_id"]
    assert batches[0].column("crop_id")[0].as_py() == row(ROW_GROUP)["crop_id"]
    assert read_row_group(place, group).schema == SCHEMA
    assert len(read_row_group(place, group)) == 300


def test_all_columns_keep_their_values(tmp_path: Path) -> None:
    full = {
        **row(0),
        "field": "P0/S1/f.jpg",
        "cx": 10.5,
        "cy": 20.25,
        "major": 50.0,
        "minor": 30.0,
        "angle": 359.5,
        "aspect": 1.5,
        "label": "bound",
        "contour": [1.0, 2.0, 3.0, 4.5],
    }
    with StoreWriter(str(tmp_path)) as writer:
        writer.add(full)
        writer.add(row(1))
    first, second = iter_rows(str(tmp_path))
    assert first == full
    assert list(first) == SCHEMA.names
    assert second == {**dict.fromkeys(SCHEMA.names), **row(1)}


def test_the_same_rows_give_the_same_files(tmp_path: Path) -> None:
    digests = []
    for name in ("a", "b"):
        fill(str(tmp_path / name), ROW_GROUP + 5)
        digests.append(
            hashlib.sha256((tmp_path / name / "part-00000.parquet").read_bytes()).digest()
        )
    assert digests[0] == digests[1]


def test_a_part_ends_where_it_grows_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crops, "PART_BYTES", 1000)
    with StoreWriter(str(tmp_path), first_part=7) as writer:
        for number in range(25):
            writer.add(row(number, 100))
    groups = row_groups(str(tmp_path))
    assert [group.rows for group in groups] == [10, 10, 5]
    assert groups[0].file == "part-00007.parquet"


def test_an_exception_leaves_only_whole_parts(tmp_path: Path) -> None:
    def interrupted() -> None:
        with StoreWriter(str(tmp_path)) as writer:
            for number in range(PART_ROWS + 3):
                writer.add(row(number))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["part-00000.parquet"]


def test_writing_keeps_one_part_in_memory(tmp_path: Path) -> None:
    """Peak memory of a process that writes 2 parts and of one that writes 10."""
    code = """
import resource, sys
from fertiray.data.crops import StoreWriter
with StoreWriter(sys.argv[1]) as writer:
    for n in range(int(sys.argv[2])):
        image = n.to_bytes(8, "big") * 256
        writer.add({"patient_id": "p", "slide_id": "s", "crop_id": str(n), "image": image})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    peaks = []
    for parts in (2, 10):
        command = [sys.executable, "-c", code, str(tmp_path / str(parts)), str(parts * PART_ROWS)]
        peaks.append(
            int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
        )
    assert peaks[1] < 1.1 * peaks[0]


def test_ids_depend_on_content_and_place() -> None:
    digest = "0123456789abcdef" * 2
    own = crop_id(digest, "p", "s", "a.png")
    assert own == crop_id(digest, "p", "s", "a.png")
    assert own.startswith("0123456789abcdef-")
    assert len(own) == 29
    others = {crop_id(digest, "p", "s", "b.png"), crop_id(digest, "ps", "", "a.png")}
    assert len(others | {own, crop_id("f" + digest, "p", "s", "a.png")}) == 4


def test_only_parts_at_the_root_are_the_store(tmp_path: Path) -> None:
    assert not is_store(str(tmp_path))
    assert not is_store(str(tmp_path / "never"))
    store = fill(str(tmp_path), 3)
    crops.write_rejects(store, 0, [{"reason": "empty", "error": "empty: no bytes"}])
    (tmp_path / ".part-00001.parquet.tmp").write_bytes(b"half")
    (tmp_path / "other.parquet").write_bytes(b"not ours")
    assert is_store(store)
    assert row_groups(store) == [RowGroup("part-00000.parquet", 0, 3)]
    (rejects,) = crops.read_rejects(store)
    assert rejects.schema == crops.REJECT_SCHEMA
    crops.write_rejects(store, 0, [])
    assert list(crops.read_rejects(store)) == []


def test_no_store_there(place: str) -> None:
    with pytest.raises(InputError, match=r"no crop store there.*fertiray ingest"):
        row_groups(place)


def test_a_truncated_part_is_named(tmp_path: Path) -> None:
    store = fill(str(tmp_path), 50)
    part = tmp_path / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"part-00000\.parquet: cannot be read as Parquet.*delete"):
        row_groups(store)


def test_damaged_pages_are_named(tmp_path: Path) -> None:
    store = fill(str(tmp_path), 50)
    part = tmp_path / "part-00000.parquet"
    data = bytearray(part.read_bytes())
    data[data.index(row(30)["image"]) + 3] ^= 1  # one bit of one image: only a checksum tells
    part.write_bytes(bytes(data))
    (group,) = row_groups(store)
    with pytest.raises(InputError, match=r"part-00000\.parquet: cannot be read as Parquet"):
        read_row_group(store, group)


def test_a_part_that_went_away_is_named(tmp_path: Path) -> None:
    store = fill(str(tmp_path), 5)
    (group,) = row_groups(store)
    (tmp_path / "part-00000.parquet").unlink()
    with pytest.raises(InputError, match=r"part-00000\.parquet: no such file"):
        read_row_group(store, group)


def test_foreign_columns_are_named(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([row(0)], schema=SCHEMA)
    part = tmp_path / "part-00000.parquet"
    pq.write_table(table.drop_columns("slide_id"), part)
    with pytest.raises(InputError, match=r"part-00000\.parquet: no column 'slide_id'.*fertiray"):
        row_groups(str(tmp_path))
    wrong = table.set_column(3, "image", pa.array(["a path"], pa.string()))
    pq.write_table(wrong, part)
    with pytest.raises(InputError, match="column 'image' holds string instead of binary"):
        row_groups(str(tmp_path))


def test_stores_written_by_polars_and_older_ones_are_read(tmp_path: Path) -> None:
    columns = [name for name in SCHEMA.names if name not in ("label", "contour")]
    rows = [{**dict.fromkeys(columns), **row(number)} for number in range(3)]
    types = {"field": pl.String} | dict.fromkeys(
        ("cx", "cy", "major", "minor", "angle", "aspect"), pl.Float64
    )
    pl.DataFrame(rows, schema_overrides=types).write_parquet(tmp_path / "part-00000.parquet")
    (group,) = row_groups(str(tmp_path))
    table = read_row_group(str(tmp_path), group)
    assert table.schema == SCHEMA
    assert table.column("image").to_pylist() == [row(n)["image"] for n in range(3)]
    assert table.column("label").null_count == 3


def test_repeated_ids_are_found_across_parts(tmp_path: Path) -> None:
    store = fill(str(tmp_path), 2000)
    assert duplicates.repeated_ids(store) == []
    with StoreWriter(store, first_part=1) as writer:
        for number in (77, 5, 3000):
            writer.add(row(number))
    assert duplicates.repeated_ids(store) == sorted(row(n)["crop_id"] for n in (5, 77))


def test_repeated_pixels_are_found_across_parts(tmp_path: Path) -> None:
    store = fill(str(tmp_path), 2000)
    assert len(duplicates.repeated_pixels(store)) == 0
    copy = {**row(9), "patient_id": "other", "crop_id": row(9)["crop_id"][:17] + "00"}
    undecodable = [{**row(3000), "width": None}, {**row(3000), "width": None}]
    with StoreWriter(store, first_part=1) as writer:
        for more in (copy, *undecodable):
            writer.add(more)
    found = duplicates.repeated_pixels(store).to_pylist()
    assert {each["crop_id"] for each in found} == {row(9)["crop_id"], copy["crop_id"]}
    assert {each["patient_id"] for each in found} == {"P0", "other"}
    assert {each["content"] for each in found} == {row(9)["crop_id"][:16]}


# Any patient, any bytes: surrogates aside, which are no text, a name may hold anything.
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
kept = st.tuples(texts, texts, st.binary(max_size=60), st.one_of(st.none(), st.integers(1, 4096)))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), rows=st.lists(kept, min_size=1, max_size=40))
def test_what_goes_in_comes_out_however_it_is_cut(
    data: st.DataObject, rows: list[tuple[str, str, bytes, int | None]]
) -> None:
    """Whatever the sizes of parts and row groups, and in whatever order groups are read."""
    keys = ["patient_id", "slide_id", "image", "width", "crop_id"]
    wanted = [(*row, str(number)) for number, row in enumerate(rows)]
    cut = data.draw(st.integers(0, len(rows)))
    with tempfile.TemporaryDirectory() as store, pytest.MonkeyPatch.context() as patch:
        patch.setattr(crops, "ROW_GROUP", data.draw(st.integers(1, 12)))
        patch.setattr(crops, "PART_ROWS", data.draw(st.integers(1, 25)))
        patch.setattr(crops, "PART_BYTES", data.draw(st.integers(1, 600)))
        for part in (wanted[:cut], wanted[cut:]):  # an interrupted writing, taken up again
            with StoreWriter(store, first_part=len(crops.parts(store))) as writer:
                for one in part:
                    writer.add(dict(zip(keys, one, strict=True)))
        groups = row_groups(store)
        assert sum(group.rows for group in groups) == len(rows)
        assert [tuple(found.values()) for found in iter_rows(store, keys)] == wanted
        found: Counter[tuple[object, ...]] = Counter()
        for group in data.draw(st.permutations(groups)):
            batches = [*iter_batches(store, group, keys, data.draw(st.integers(1, 9)))]
            assert sum(map(len, batches)) == group.rows
            found.update(tuple(row.values()) for batch in batches for row in batch.to_pylist())
        assert found == Counter(wanted)
        assert duplicates.repeated_ids(store) == []
