"""A crop store with labels.

What
    Head crops of any number of patients in Parquet parts (:mod:`fertiray.data.crops`), made by
    ``fertiray segment --labels`` or ``fertiray ingest``. Rows without a label are passed over: a
    store made for scoring has many.

Classes
    The column ``label``. Crops that were segmented (they have an ``angle``) are in the head's own
    frame already.

Layout::

    store.json
    part-00000.parquet ...
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fertiray.data.crops import iter_rows
from fertiray.data.datasets.items import Item, Listing

TITLE = "crop store"


def matches(listing: Listing) -> bool:
    """Whether parts of a store lie at the root."""
    return any(
        name.startswith("part-") and name.endswith(".parquet") and "/" not in name
        for name in listing.names
    )


def items(listing: Listing, tasks: Sequence[str]) -> Iterator[Item]:
    """The labelled crops, with their bytes.

    Raises:
        InputError: a part is damaged or foreign.
    """
    columns = ["crop_id", "patient_id", "image", "label", "angle"]
    for row in iter_rows(listing.location, columns):
        if row["label"] is not None:
            yield Item(
                name=row["crop_id"],
                place=listing.location,
                labels={tasks[0]: row["label"]},
                patient=row["patient_id"],
                origin=f"crop {row['crop_id']}",
                data=row["image"],
                framed=row["angle"] is not None,
            )
