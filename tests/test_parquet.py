"""Tables of run folders: what is damaged is named, whatever way it is damaged."""

import polars as pl
import pyarrow.parquet as pq
import pytest

from fertiray import parquet
from fertiray.errors import InputError

TABLE = pl.DataFrame(
    {
        "patient_id": ["p1", "p2", None] * 400,
        "p_intact": [0.25, 1.0, float("nan")] * 400,
        "finished": pl.Series([1, 2, 3] * 400, dtype=pl.Datetime("ms", "UTC")),
    }
)


def test_what_was_written_is_read(tmp_path):
    place = str(tmp_path / "table.parquet")
    parquet.write(place, TABLE)
    assert parquet.read(place).equals(TABLE)
    assert parquet.read(place).schema == TABLE.schema
    assert parquet.read(place, ["p_intact", "ood"]).columns == ["p_intact"]
    assert parquet.rows(place) == 1200


@pytest.mark.parametrize("damage", ["empty", "cut", "cut at the end", "another kind", "no end"])
def test_a_damaged_table_is_one_line(tmp_path, damage):
    place, data = tmp_path / "table.parquet", parquet.to_bytes(TABLE)
    place.write_bytes(
        {
            "empty": b"",
            "cut": data[: len(data) // 2],
            "cut at the end": data[:-1],
            "another kind": b"patient_id,p_intact\np1,0.25\n",
            "no end": b"PAR1" + bytes(100) + b"PAR1",
        }[damage]
    )
    for read in (parquet.read, parquet.rows):
        with pytest.raises(InputError, match=r"table\.parquet: cannot be read as Parquet") as told:
            read(str(place))
        assert "\n" not in str(told.value)


def test_a_bit_that_turned_is_noticed(tmp_path):
    """Of a file with checksums of its pages, as scores and rejects are; in plain numbers, where
    any bits are a value and nothing but the checksum can tell."""
    place = tmp_path / "table.parquet"
    numbers = pl.DataFrame({"p_intact": [n / 4000 for n in range(4000)]})
    plainly = {"compression": "none", "use_dictionary": False}
    pq.write_table(numbers.to_arrow(), place, write_page_checksum=True, **plainly)
    assert parquet.read(str(place)).equals(numbers)
    data = bytearray(place.read_bytes())
    data[len(data) // 2] ^= 1
    place.write_bytes(data)
    assert not pl.from_arrow(pq.read_table(place)).equals(numbers)
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        parquet.read(str(place))


def test_a_table_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.parquet: no such file"):
        parquet.read(str(tmp_path / "none.parquet"))
