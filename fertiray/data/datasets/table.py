"""Any set with a ``labels.csv``.

What
    A table at the root names the images, which lie anywhere below it. Columns, in any order and
    case: ``image`` (relative path, or the base name where that is unique), ``label`` (or
    ``class``), and optionally ``patient_id``. A column named like one of the paper's tasks
    (``EXP``, ``ICM``, ``TE``) grades that task; ``label`` stands for the first task if that has no
    column of its own. Any other column with few different entries, such as ``day``, becomes a
    facet.

Classes
    As written. Empty, ``-``, ``?``, ``-1``, ``NA`` and ``ND`` say that there is no grade.

Layout::

    labels.csv
    anywhere/image.png
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fertiray.data.datasets.items import Item, Listing
from fertiray.data.datasets.tables import Row, columns_of, few_valued, found, grade, read_table
from fertiray.errors import InputError

TITLE = "labels.csv"

FILE = "labels.csv"

_PATIENT = ("patient_id", "patient")
_SLIDE = "slide_id"  # lies within a patient: neither a group nor a facet


def matches(listing: Listing) -> bool:
    """Whether there is a table."""
    return FILE in listing.files


def items(listing: Listing, tasks: Sequence[str]) -> Iterator[Item]:
    """The rows of the table.

    Raises:
        InputError: a column is missing, or none of the images is there.
    """
    image, labels = columns(listing, FILE, tasks)
    place = listing.place(FILE)
    rows = read_table(place)
    patient = next((name for name in _PATIENT if rows and name in rows[0]), None)
    facets = few_valued(rows, (image, "label", "class", _SLIDE, *_PATIENT, *map(str.lower, tasks)))

    def item(number: int, row: Row) -> Item:
        name = listing.find(row[image])
        return Item(
            name,
            listing.place(name),
            {
                task: grade(row[column]) if column else None
                for task, column in zip(tasks, labels, strict=True)
            },
            row[patient] or None if patient else None,
            {facet: values[number] for facet, values in facets.items()},
            f"{place}, line {row['#']}",
        )

    yield from found((item(number, row) for number, row in enumerate(rows)), listing, FILE)


def columns(listing: Listing, file: str, tasks: Sequence[str]) -> tuple[str, list[str]]:
    """The columns of a table that name the image and grade each task, in lower case.

    Returns:
        The image's column, and one for each task; an empty string for a task without one.

    Raises:
        InputError: there is no column for the image, or none for any task.
    """
    place = listing.place(file)
    written = columns_of(place)
    there = {name.lower() for name in written}
    found = [task.lower() if task.lower() in there else "" for task in tasks]
    if not found[0]:
        found[0] = next((name for name in ("label", "class") if name in there), "")
    if "image" not in there or not any(found):
        also = f", or image and {', '.join(tasks)}" if len(tasks) > 1 else " (or Image and Class)"
        raise InputError(f"{place}: needs the columns image and label{also}, found {written}")
    return "image", found
