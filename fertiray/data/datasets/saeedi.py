"""Saeedi et al. 2017: day-5 blastocysts of the Pacific Centre for Reproductive Medicine (PCRM).

What
    249 photographs of human day-5 blastocysts, PCRM 2012 to 2016, with outlines of the inner cell
    mass, the trophectoderm and the zona pellucida, and Gardner grades.

Classes
    Tasks ``EXP``, ``ICM`` and ``TE`` (:mod:`fertiray.data.datasets.gardner`).

Layout
    The images and masks are published as four folders; the masks are not read. The grades come as a
    table of their own, which belongs at the root as ``grades.csv``: columns ``image`` (with or
    without ``Blast_PCRM_`` and the ending) and either ``gardner`` (whole grades such as ``4AB``) or
    ``EXP`` (0, 1, 2), ``ICM`` and ``TE`` (A, B, C); optionally ``patient_id``::

        Images/Blast_PCRM_1201754 D5.BMP
        GT_ICM/  GT_TE/  GT_ZP/
        grades.csv

Source and terms
    Saeedi P., Yee D., Au J., Havelock J. Automatic identification of human blastocyst components
    via texture. IEEE Transactions on Biomedical Engineering 64 (2017) 2968-2978. From the authors,
    for research.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fertiray.data.datasets import gardner
from fertiray.data.datasets.items import Item, Listing
from fertiray.data.datasets.tables import Row, found, grade, read_table
from fertiray.errors import InputError

TITLE = "Saeedi et al. 2017"

_PREFIX = "Blast_PCRM_"
_TABLES = ("grades.csv", "labels.csv")


def matches(listing: Listing) -> bool:
    """Whether an image is named as the set's are."""
    return any(
        name.rpartition("/")[2].lower().startswith(_PREFIX.lower()) for name in listing.images
    )


def items(listing: Listing, tasks: Sequence[str]) -> Iterator[Item]:
    """The graded blastocysts.

    Raises:
        InputError: the table is missing, lacks a column or holds a grade that is none.
    """
    file = listing.first(*_TABLES)
    if file is None:
        raise InputError(
            f"{listing.location}: {_PREFIX} images, but no {_TABLES[0]}: put the table of their"
            " grades there (columns image and gardner, or image, EXP, ICM and TE)"
        )
    images = Listing(listing.location, tuple(n for n in listing.images if not _is_mask(n)))
    place = listing.place(file)
    rows = read_table(place)
    wanted = [name.lower() for name in gardner.TASKS]
    there = rows[0] if rows else {"image": "", "gardner": ""}
    if "image" not in there or not ("gardner" in there or any(name in there for name in wanted)):
        raise InputError(
            f"{place}: needs the columns image and gardner, or image, EXP, ICM and TE;"
            f" found {[name for name in there if name != '#']}"
        )
    yield from found((_item(images, place, row, tasks) for row in rows), images, file)


def _item(images: Listing, place: str, row: Row, tasks: Sequence[str]) -> Item:
    name = images.find(row["image"])
    if name not in images.files:
        name = images.find(_PREFIX + row["image"])
    grades = _grades(place, row)
    return Item(
        name,
        images.place(name),
        {task: grades.get(task) for task in tasks},
        row.get("patient_id") or None,
        origin=f"{place}, line {row['#']}",
    )


def _grades(place: str, row: Row) -> dict[str, str | None]:
    if grade(row.get("gardner", "")) is not None:
        labels = gardner.whole(row["gardner"])
        if labels is None:
            raise InputError(
                f"{place}: line {row['#']}: gardner {row['gardner']!r} is no grade; write it as 4AB"
            )
        return labels
    return {
        gardner.EXP: grade(row.get("exp", "")),
        gardner.ICM: gardner.letter(row.get("icm", "")),
        gardner.TE: gardner.letter(row.get("te", "")),
    }


def _is_mask(name: str) -> bool:
    return any(part.upper().startswith("GT_") for part in name.split("/")[:-1])
