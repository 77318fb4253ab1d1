"""Label tables: comma, semicolon or tab, with or without blanks, columns by name in any case."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence

from fertiray import storage
from fertiray.data.datasets.items import Item, Listing
from fertiray.errors import InputError

UNGRADED = frozenset({"", "-", "?", "-1", "na", "n/a", "nan", "nd", "none", "null"})
"""Entries, in lower case, that say there is no grade."""

Row = dict[str, str]


def read_table(place: str, header: Sequence[str] = ()) -> list[Row]:
    """The rows of a table by lower-case column name, values without the blanks around them.

    Args:
        place: the file, local or ``s3://``.
        header: column names of a table that may come without its first line; it does where the
            first line's first entry is the name of an image.

    Returns:
        Rows, each with its line number under ``#``.

    Raises:
        InputError: there is no such file, or it is no table.
    """
    text = storage.read_bytes(place).decode("utf-8-sig", errors="replace")
    lines = text.splitlines()
    first = lines[0] if lines else ""
    delimiter = max(";\t,", key=first.count)  # the comma where there is none
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]
    except csv.Error as error:
        raise InputError(f"{place}: not a table ({error}); save it as CSV again") from error
    if not rows:
        return []
    bare = bool(header) and "." in rows[0][0]
    columns = [*header] if bare else [name.lower() for name in rows[0]]
    start = 0 if bare else 1
    return [
        {**dict.fromkeys(columns, ""), **dict(zip(columns, row, strict=False)), "#": str(number)}
        for number, row in enumerate(rows[start:], start + 1)
        if any(row)
    ]


def columns_of(place: str) -> list[str]:
    """The column names of a table, as they are written there."""
    lines = storage.read_bytes(place).decode("utf-8-sig", errors="replace").splitlines()
    first = lines[0] if lines else ""
    return [name.strip() for name in first.split(max(";\t,", key=first.count))] if first else []


def grade(value: str) -> str | None:
    """A table's entry as a label: None where it says that there is no grade."""
    return None if value.lower() in UNGRADED else value


def found(items: Iterable[Item], listing: Listing, table: str) -> list[Item]:
    """The items of a table, once it is certain that its images lie here at all.

    Single images that are missing are excluded later, each with its name.

    Raises:
        InputError: the table has no rows, or not one of its images is there.
    """
    rows = list(items)
    if not rows:
        raise InputError(f"{listing.place(table)}: no rows; give one for each image")
    if not any(item.name in listing.files for item in rows):
        raise InputError(
            f"{listing.place(table)}: none of its {len(rows)} images is below {listing.location}"
            f" (the first is {rows[0].name}); put the images there"
        )
    return rows


def few_valued(rows: Sequence[Row], leave_out: Iterable[str]) -> dict[str, list[str]]:
    """Columns that sort the images into a few kinds, such as the day: what becomes a facet.

    Columns with many different entries are names and notes.
    """
    skip: Mapping[str, None] = dict.fromkeys((*leave_out, "#"))
    names = [name for name in (rows[0] if rows else {}) if name and name not in skip]
    columns = {name: [row[name] for row in rows] for name in names}
    return {name: values for name, values in columns.items() if 1 < len({*values}) <= MOST_KINDS}


MOST_KINDS = 12
"""Most different entries of a column that is taken for a facet."""
