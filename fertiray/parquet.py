"""Tables of run, study and training folders as Parquet files, local or ``s3://``."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from fertiray import storage
from fertiray.errors import InputError


def read(place: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """A table; of ``columns`` those that it has, where given.

    Raises:
        InputError: there is no such file, or it is damaged.
    """
    with _opened(place) as parquet:
        names = parquet.schema_arrow.names
        table = parquet.read(names if columns is None else [n for n in columns if n in names])
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def rows(place: str) -> int:
    """How many rows a table has.

    Raises:
        InputError: there is no such file, or it is damaged.
    """
    with _opened(place) as parquet:
        return int(parquet.metadata.num_rows)


def write(place: str, table: pl.DataFrame) -> None:
    """Writes a table as a whole, see :func:`fertiray.storage.write_bytes`."""
    storage.write_bytes(place, to_bytes(table))


def to_bytes(table: pl.DataFrame) -> bytes:
    """A table as the content of a Parquet file."""
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    return buffer.getvalue()


@contextmanager
def _opened(place: str) -> Iterator[pq.ParquetFile]:
    data = pa.py_buffer(storage.read_bytes(place))
    try:
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as parquet:
            yield parquet
    except (pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())[:160]
        raise InputError(
            f"{place}: cannot be read as Parquet ({said}); delete it and run the command that"
            " wrote it again"
        ) from error
