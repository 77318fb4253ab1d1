"""The crop store: head crops of many patients in a Parquet dataset, on local disk or S3.

A store is a folder::

    store.json               what it is, how it was made, what is in it
    part-00000.parquet ...   the crops, SCHEMA below, row groups of at most 1024 rows
    rejects/part-*.parquet   what could not be stored or used, REJECT_SCHEMA below
    duplicates/part-*.parquet  crops whose pixels occur more than once

A part appears whole or not at all. A row group is the unit of scoring work: it is read alone, by
any worker, in any order. A patient is a column; the crops of many patients share a part.

A ``crop_id`` is ``<content>-<place>``: 16 hex digits from the pixels, 12 from where the crop came
from (relative path, and position in a field). The same input gives the same ids wherever it lies,
and equal pixels show in the first 16 digits.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fertiray import storage
from fertiray.errors import InputError

ROW_GROUP = 1024
PART_ROWS = 4 * ROW_GROUP
PART_BYTES = 64 * 2**20

SCHEMA = pa.schema(
    [
        ("patient_id", pa.string()),
        ("slide_id", pa.string()),
        ("crop_id", pa.string()),
        ("image", pa.binary()),  # encoded, as in the source file; may be undecodable
        ("width", pa.int32()),  # pixels of the crop, null where it cannot be decoded
        ("height", pa.int32()),
        ("field", pa.string()),  # relative path of the field; this and the next six are
        ("cx", pa.float32()),  # null for ingested crops; pixels of the field
        ("cy", pa.float32()),
        ("major", pa.float32()),
        ("minor", pa.float32()),
        ("angle", pa.float32()),  # degrees in [0, 360), from the tail end to the acrosome
        ("aspect", pa.float32()),
        ("label", pa.string()),  # null where unknown
        ("contour", pa.list_(pa.float32())),  # x0, y0, x1, y1, ...: pixels of the field
    ]
)

REJECT_SCHEMA = pa.schema(
    [
        ("crop_id", pa.string()),  # null where nothing was stored
        ("patient_id", pa.string()),
        ("slide_id", pa.string()),
        ("field", pa.string()),  # relative path of the source file
        ("cx", pa.float32()),
        ("cy", pa.float32()),
        ("stage", pa.string()),  # "read", "decode" or "segment"
        ("reason", pa.string()),  # one word, for counting
        ("error", pa.string()),  # the sentence
    ]
)

_OPTIONAL = ("label", "contour")
_OPTIONS: dict[str, Any] = {
    # Pixels are compressed already; minimum and maximum of images would only bloat the footer.
    "compression": {name: "NONE" if name == "image" else "ZSTD" for name in SCHEMA.names},
    "use_dictionary": ["patient_id", "slide_id", "field", "label"],
    "write_statistics": ["patient_id", "slide_id", "crop_id"],
    "write_page_checksum": True,
}


@dataclass(frozen=True)
class RowGroup:
    """One shard of a store: what a worker reads at once.

    Attributes:
        file: name of the part within the store.
        index: number of the row group within the part.
        rows: number of crops.
    """

    file: str
    index: int
    rows: int


def crop_id(content: str, *place: str) -> str:
    """The id of a crop.

    Args:
        content: hex digest of the pixels (``images.image_digest``), or of the bytes where there are
            no pixels.
        place: what tells this crop from one that looks the same: ids, relative path, position.
    """
    where = hashlib.blake2b("\0".join(place).encode("utf-8", "surrogateescape"), digest_size=6)
    return f"{content[:16]}-{where.hexdigest()}"


def part_name(index: int) -> str:
    """The file name of the index-th part."""
    return f"part-{index:05d}.parquet"


class PartWriter:
    """Writes one part: rows are gathered into row groups, the file appears when it is closed."""

    def __init__(self, location: str, index: int) -> None:
        """Starts part ``index`` of the store at ``location``; nothing is written yet."""
        self.file = storage.join(location, part_name(index))
        self.rows = 0
        self.bytes = 0
        self._pending: list[Mapping[str, Any]] = []
        self._buffer = io.BytesIO()
        self._writer = pq.ParquetWriter(self._buffer, SCHEMA, **_OPTIONS)

    def add(self, row: Mapping[str, Any]) -> None:
        """Appends a crop: a mapping of SCHEMA's columns; absent ones become null."""
        self._pending.append(row)
        self.rows += 1
        self.bytes += len(row["image"])
        if len(self._pending) == ROW_GROUP:
            self._flush()

    def close(self) -> None:
        """Writes the part, which is visible from now on."""
        self._flush()
        self._writer.close()
        storage.write_bytes(self.file, self._buffer.getvalue())

    def _flush(self) -> None:
        if self._pending:
            self._writer.write_table(pa.Table.from_pylist(self._pending, schema=SCHEMA))
            self._pending.clear()


class StoreWriter:
    """Streams crops into parts of at most 4096 rows or about 64 MiB; memory holds one part.

    A context manager. Leaving it normally writes the last part; leaving it by an exception drops
    the part in hand, and the parts already written stay. The same rows give the same files.

    Args:
        location: folder or ``s3://`` prefix.
        first_part: number of the first part to write.
    """

    def __init__(self, location: str, *, first_part: int = 0) -> None:
        self.location = str(location)
        self._next = first_part
        self._part: PartWriter | None = None

    def add(self, row: Mapping[str, Any]) -> None:
        """Appends a crop: a mapping of SCHEMA's columns; absent ones become null."""
        if self._part is None:
            self._part = PartWriter(self.location, self._next)
            self._next += 1
        self._part.add(row)
        if self._part.rows >= PART_ROWS or self._part.bytes >= PART_BYTES:
            self._close_part()

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if kind is None:
            self._close_part()

    def _close_part(self) -> None:
        if self._part is not None:
            self._part.close()
            self._part = None


def write_rejects(location: str, index: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes the reject rows (mappings of REJECT_SCHEMA) of part ``index``."""
    file = storage.join(location, "rejects", part_name(index))
    if rows:
        _write_table(file, pa.Table.from_pylist(list(rows), schema=REJECT_SCHEMA))
    else:  # what an interrupted run may have left
        storage.remove(file)


def write_duplicates(location: str, table: pa.Table) -> None:
    """Writes the table of duplicated crops (``duplicates.repeated_pixels``)."""
    _write_table(storage.join(location, "duplicates", part_name(0)), table)


def _write_table(file: str, table: pa.Table) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="ZSTD")
    storage.write_bytes(file, buffer.getvalue())


def parts(location: str) -> list[str]:
    """File names of a store's parts, sorted; empty where there are none."""
    names = (storage.relative(file, location) for file in storage.list_files(location, ".parquet"))
    return [name for name in names if name.startswith("part-")]


def is_store(location: str) -> bool:
    """Whether a folder holds a crop store."""
    return bool(parts(location))


def row_groups(location: str) -> list[RowGroup]:
    """All row groups of a store, in order: the shards of scoring.

    Reads the footers only.

    Raises:
        InputError: there is no store, or a part is truncated, foreign or lacks a column.
    """
    files = parts(location)
    if not files:
        raise InputError(
            f"{location}: no crop store there (no part-*.parquet); make one with "
            "`fertiray ingest` or `fertiray segment`"
        )
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(lambda file: _group_rows(storage.join(location, file)), files))
    return [
        RowGroup(file, index, rows)
        for file, groups in zip(files, counts, strict=True)
        for index, rows in enumerate(groups)
    ]


def iter_batches(
    location: str, group: RowGroup, columns: Sequence[str] | None = None, rows: int = ROW_GROUP
) -> Iterator[pa.RecordBatch]:
    """The crops of one row group, in batches.

    Args:
        location: the store.
        group: one of its ``row_groups``.
        columns: names of SCHEMA to read; all of them by default.
        rows: largest number of rows in a batch.

    Yields:
        Batches with SCHEMA's types and the columns in the order asked for.

    Raises:
        InputError: the part is gone, truncated, foreign or lacks a column.
    """
    schema = pa.schema([SCHEMA.field(name) for name in columns or SCHEMA.names])
    with _opened(storage.join(location, group.file)) as file:
        there = [name for name in schema.names if name in file.schema_arrow.names]
        for batch in file.iter_batches(rows, [group.index], there, use_threads=False):
            arrays = [
                batch.column(field.name).cast(field.type)
                if field.name in there
                else pa.nulls(len(batch), field.type)
                for field in schema
            ]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def read_row_group(
    location: str, group: RowGroup, columns: Sequence[str] | None = None
) -> pa.Table:
    """The crops of one row group as a table; see ``iter_batches``."""
    schema = pa.schema([SCHEMA.field(name) for name in columns or SCHEMA.names])
    return pa.Table.from_batches(iter_batches(location, group, columns), schema)


def iter_rows(location: str, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """A store's crops one by one, in order; memory holds one row group.

    Raises:
        InputError: as ``row_groups`` and ``iter_batches``.
    """
    for group in row_groups(location):
        for batch in iter_batches(location, group, columns, rows=128):
            yield from batch.to_pylist()


def read_rejects(location: str) -> Iterator[pa.Table]:
    """A store's reject rows, one table a file; nothing where nothing was rejected.

    Raises:
        InputError: a file is truncated or foreign.
    """
    for file in storage.list_files(storage.join(location, "rejects"), ".parquet"):
        data = storage.read_bytes(file)
        with _named(file):
            table = pq.read_table(io.BytesIO(data), schema=REJECT_SCHEMA)
        yield table


def _group_rows(file: str) -> list[int]:
    with _opened(file) as opened:
        metadata = opened.metadata
        return [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]


@contextmanager
def _opened(file: str) -> Iterator[pq.ParquetFile]:
    """A part, opened and checked against SCHEMA; errors name the file."""
    fs, path = storage.filesystem(file)
    with (
        _named(file),
        fs.open(path, "rb") as source,
        pq.ParquetFile(source, pre_buffer=True, page_checksum_verification=True) as opened,
    ):
        _check_schema(file, opened.schema_arrow)
        yield opened


@contextmanager
def _named(file: str) -> Iterator[None]:
    """Turns what Arrow and the disk say of a file into one line that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{file}: no such file; was the store changed meanwhile?") from error
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's, not Arrow's
            raise InputError(
                f"{file}: cannot be read ({error.strerror}); check its permissions and the disk"
            ) from error
        said = " ".join(str(error).split())[:160]
        raise InputError(
            f"{file}: cannot be read as Parquet ({said}); if it is damaged, delete it and make "
            "the store again"
        ) from error


def _check_schema(file: str, found: pa.Schema) -> None:
    for wanted in SCHEMA:
        if wanted.name not in found.names:
            if wanted.name in _OPTIONAL:
                continue
            raise InputError(
                f"{file}: no column {wanted.name!r}: not a part of a crop store; make one with "
                "`fertiray ingest` or `fertiray segment`"
            )
        kind = found.field(wanted.name).type
        if not any(fits(kind) and fits(wanted.type) for fits in _FAMILIES):
            raise InputError(
                f"{file}: column {wanted.name!r} holds {kind} instead of {wanted.type}; make the "
                "store again with `fertiray ingest` or `fertiray segment`"
            )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


_FAMILIES = (_is_text, _is_binary, pa.types.is_integer, pa.types.is_floating, _is_list)
