"""Uploaded Parquet files into a crop store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fertiray.data import crops
from fertiray.data.folders import ONLY_SLIDE
from fertiray.errors import InputError
from fertiray.serving.archives import Unpacked, shown
from fertiray.serving.limits import Limits

ROWS = 32  # read at a time: each image may be as large as the limit of one crop


def parquet_to_store(file: Path, store: str, limits: Limits, going: Callable[[], None]) -> Unpacked:
    """Writes the rows of a Parquet file into a crop store.

    The columns ``patient_id`` and ``image`` (encoded bytes) are needed; ``slide_id``, ``crop_id``
    and all others of a crop store are taken where they are there.

    Raises:
        InputError: a missing or foreign column, a row without a patient, a damaged file, a
            ``crop_id`` that occurs twice, or more than the limits allow.
    """
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as opened:
            rows = _parquet_rows(opened, limits, going)
            count = size = 0
            seen: set[str] = set()
            with crops.StoreWriter(store) as writer:
                for row in rows:
                    writer.add(row)
                    count += 1
                    size += len(row["image"])
                    seen.add(row["crop_id"])
                    if size > limits.unpacked_bytes:
                        raise InputError(f"more than {limits.unpacked_bytes} bytes of images")
                    if len(seen) < count:
                        raise InputError(f"crop_id {shown(row['crop_id'])} occurs twice")
    except (pa.ArrowException, OSError) as error:
        said = shown(" ".join(str(error).split())[:160])
        raise InputError(f"the Parquet file cannot be read ({said}); make it again") from error
    return Unpacked(count, size)


def _parquet_rows(
    opened: pq.ParquetFile, limits: Limits, going: Callable[[], None]
) -> Iterator[dict[str, Any]]:
    if opened.metadata.num_rows > limits.files:
        raise InputError(f"more than {limits.files} rows; send the crops in parts")
    if not opened.metadata.num_rows:  # PyArrow 19 fails at a file without row groups
        raise InputError("the Parquet file has no rows")
    there = opened.schema_arrow.names
    for needed in ("patient_id", "image"):
        if needed not in there:
            raise InputError(f"no column {needed!r}; patient_id and image are needed")
    wanted = [name for name in crops.SCHEMA.names if name in there]
    schema = pa.schema([crops.SCHEMA.field(name) for name in wanted])
    number = 0
    for batch in opened.iter_batches(ROWS, columns=wanted, use_threads=False):
        going()
        for row in batch.select(wanted).cast(schema).to_pylist():
            number += 1
            if not row["patient_id"]:
                raise InputError(f"row {number} has no patient_id; fill the column")
            row["image"] = row["image"] or b""
            row["slide_id"] = row.get("slide_id") or ONLY_SLIDE
            if not row.get("crop_id"):
                content = hashlib.sha256(row["image"]).hexdigest()
                place = (row["patient_id"], row["slide_id"], str(number))
                row["crop_id"] = crops.crop_id(content, *place)
            yield row
