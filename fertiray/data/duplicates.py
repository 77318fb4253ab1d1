"""Finding crops that occur twice in a store, in one pass and eight bytes a crop."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from fertiray.data.crops import SCHEMA, iter_batches, row_groups

Keys = npt.NDArray[np.uint64]

_COLUMNS = ["crop_id", "patient_id", "slide_id", "width"]


def repeated_ids(location: str) -> list[str]:
    """The ``crop_id``s that more than one row of a store carries, sorted; normally none."""
    found = _repeated(location, lambda batch: _hashes(batch.column("crop_id")), ["crop_id"])
    counts = found.column("crop_id").value_counts()
    return sorted(row["values"].as_py() for row in counts if row["counts"].as_py() > 1)


def repeated_pixels(location: str) -> pa.Table:
    """The crops of a store whose pixels occur more than once.

    Only for stores whose ids were made by ``crops.crop_id``. Undecodable crops are left out.

    Returns:
        A table of content (16 hex digits, the same for the same pixels), crop_id, patient_id,
        slide_id; sorted, so that duplicates stand together.
    """
    found = _repeated(location, _contents, _COLUMNS)
    content = pc.utf8_slice_codeunits(found.column("crop_id"), 0, 16)
    table = found.drop_columns("width").add_column(0, "content", content)
    return table.sort_by([("content", "ascending"), ("crop_id", "ascending")])


def _repeated(
    location: str, keys: Callable[[pa.RecordBatch], Keys], columns: Sequence[str]
) -> pa.Table:
    """The rows whose key occurs more than once; key 0 stands for none."""
    groups = row_groups(location)
    seen = [keys(batch) for group in groups for batch in iter_batches(location, group, columns)]
    values, counts = np.unique(np.concatenate([np.zeros(0, np.uint64), *seen]), return_counts=True)
    repeated = values[(counts > 1) & (values != 0)]
    schema = pa.schema([SCHEMA.field(name) for name in columns])
    if not len(repeated):
        return schema.empty_table()
    tables = [
        batch.filter(pa.array(np.isin(keys(batch), repeated)))
        for group in groups
        for batch in iter_batches(location, group, columns)
    ]
    return pa.Table.from_batches(tables, schema)


def _hashes(column: pa.Array) -> Keys:
    return pl.Series(column).hash().to_numpy()


def _contents(batch: pa.RecordBatch) -> Keys:
    """The first 16 hex digits of the ids as numbers; 0 where the crop has no pixels."""
    ids, widths = batch.column("crop_id").to_pylist(), batch.column("width").to_pylist()
    return np.array(
        [0 if width is None else int(own[:16], 16) for own, width in zip(ids, widths, strict=True)],
        np.uint64,
    )
