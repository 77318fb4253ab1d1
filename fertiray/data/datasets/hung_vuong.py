"""Hung Vuong Hospital embryos.

What
    1,020 RGB JPEG photographs of embryos in culture, mostly 256 x 256 px, 840 of them labelled. The
    name begins with the day of development, D3 or D5; patients are not published.

Classes
    ``Class`` 0 is poor, 1 is good. Of the 840, 22 of 560 D3 and 102 of 280 D5 are good.

Facet
    ``day``, D3 or D5: it predicts the label so well that results have to be told by day.

Known faults
    Byte-identical files, some with two labels; the same embryo photographed twice, in another focus
    or a little later (neighbouring numbers); pictures stretched along one axis until nothing can be
    recognised. See ``fertiray data check``.

Layout (as published, or gathered in one folder)::

    train.csv  train/D3_001.jpg              Image,Class
    labels.csv images/D3_001.jpg             the same; images anywhere below will do

Source and terms
    Kaggle, World Championship 2023 Embryo Classification (hvwc23), by Hung Vuong Hospital, Ho Chi
    Minh City; research use under the competition's terms.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from fertiray.data.datasets import table
from fertiray.data.datasets.items import Item, Listing
from fertiray.data.datasets.tables import found, grade, read_table

TITLE = "Hung Vuong"

_TABLES = ("labels.csv", "train.csv")
_IMAGE = re.compile(r"(D[35])_\d+\.jpe?g")
_CLASSES = {"0": "poor", "1": "good"}


def matches(listing: Listing) -> bool:
    """Whether there is a table and every image is named after its day."""
    return (
        listing.first(*_TABLES) is not None
        and bool(listing.images)
        and all(_IMAGE.fullmatch(name.rpartition("/")[2]) for name in listing.images)
    )


def items(listing: Listing, tasks: Sequence[str]) -> Iterator[Item]:
    """The labelled embryos.

    Raises:
        InputError: the table lacks a column, or none of its images is there.
    """
    file = listing.first(*_TABLES)
    assert file is not None
    image, label = table.columns(listing, file, tasks[:1])
    rows = read_table(listing.place(file))
    yield from found(
        (_item(listing, file, row, image, label[0], tasks) for row in rows), listing, file
    )


def _item(
    listing: Listing, file: str, row: dict[str, str], image: str, label: str, tasks: Sequence[str]
) -> Item:
    name = listing.find(row[image])
    day = _IMAGE.fullmatch(name.rpartition("/")[2])
    value = grade(row[label])
    return Item(
        name,
        listing.place(name),
        {tasks[0]: _CLASSES.get(value, value) if value is not None else None},
        facets={"day": day[1] if day else ""},
        origin=f"{listing.place(file)}, line {row['#']}",
    )
