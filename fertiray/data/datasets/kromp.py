"""Kromp et al. 2023: blastocysts with Gardner grades.

What
    2,344 grey photographs of human blastocysts of 851 patients (the digits before the underscore
    are taken for the patient). 2,044 were graded by one embryologist (silver), 300 by a panel of
    several (gold).

Classes
    Tasks ``EXP``, ``ICM`` and ``TE``. The tables hold codes; the paper's classes are made of them
    as :mod:`fertiray.data.datasets.gardner` says:

    ====  ============  ==========================  =========================================
    task  code          Gardner                     class (images in ``complete.csv``)
    ====  ============  ==========================  =========================================
    EXP   0 1 2 3 4     1 2 3 4 5 (or 6)            ``0`` (942), ``1`` (1,243), ``2`` (159)
    ICM   0 1 2 3       A B C, 3: not gradable      ``A`` (1,496), ``B`` (389), none (459)
    TE    0 1 2 3       A B C, 3: not gradable      ``A`` (1,239), ``B`` (597), none (508)
    ====  ============  ==========================  =========================================

    ``NA``, ``ND`` (the panel did not agree), ``-1`` and empty entries are ungraded. ICM and TE are
    3 for exactly the 436 images of EXP 0 and 1: they cannot be seen before the blastocyst is full.

Facet
    ``grades``: silver or gold, where the two published tables are read.

Known faults
    ``complete.csv`` names one image twice.

Layout (as published, or with the one table that was made of both)::

    Gardner_train_silver.csv                       Image;EXP_silver;ICM_silver;TE_silver
    Gardner_test_gold_onlyGardnerScores.csv        Image;EXP_gold;ICM_gold;TE_gold
    complete.csv                                   image;EXP;ICM;TE, with or without a header
    Images/0001_01.png

Source and terms
    Kromp F., Wagner R., Balaban B. et al. An annotated human blastocyst dataset to benchmark deep
    learning architectures for in vitro fertilization. Scientific Data 10 (2023) 271. Figshare, doi
    10.6084/m9.figshare.20123153.v3, CC BY 4.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from fertiray.data.datasets import gardner
from fertiray.data.datasets.items import Item, Listing
from fertiray.data.datasets.tables import Row, found, grade, read_table
from fertiray.errors import InputError

TITLE = "Kromp et al. 2023"

_COMPLETE = "complete.csv"
_GRADED = {
    "Gardner_train_silver.csv": "silver",
    "Gardner_test_gold_onlyGardnerScores.csv": "gold",
}
_HEADER = ("image", "exp", "icm", "te")
_CODE = re.compile(r"([0-4])(?:\.0)?")  # some tables write 2.0
_LETTERS = (gardner.letter("A"), gardner.letter("B"), gardner.letter("C"), None, None)


def matches(listing: Listing) -> bool:
    """Whether one of the tables lies at the root."""
    return listing.first(_COMPLETE, *_GRADED) is not None


def items(listing: Listing, tasks: Sequence[str]) -> Iterator[Item]:
    """The graded blastocysts.

    Raises:
        InputError: a table holds a code that is none, or no image is there.
    """
    published = [file for file in _GRADED if file in listing.files]
    for file in published or [_COMPLETE]:
        yield from found(_rows(listing, file, tasks), listing, file)


def _rows(listing: Listing, file: str, tasks: Sequence[str]) -> Iterator[Item]:
    place = listing.place(file)
    for row in read_table(place, _HEADER):
        if "image" not in row:
            raise InputError(f"{place}: needs the columns image, EXP, ICM and TE; found {[*row]}")
        name = listing.find(row["image"])
        grades = _grades(place, row)
        patient, underscore, _ = name.rpartition("/")[2].partition("_")
        yield Item(
            name,
            listing.place(name),
            {task: grades.get(task) for task in tasks},
            patient if underscore else None,
            {"grades": _GRADED[file]} if file in _GRADED else {},
            f"{place}, line {row['#']}",
        )


def _grades(place: str, row: Row) -> dict[str, str | None]:
    codes = {}
    for task in gardner.TASKS:
        value = next((row[name] for name in row if name.partition("_")[0] == task.lower()), "")
        code = _CODE.fullmatch(value)
        if code is None and grade(value) is not None:
            raise InputError(
                f"{place}: line {row['#']}: {task} {value!r} is no code; they are 0 to 4 for EXP,"
                " 0 to 3 for ICM and TE, NA and ND"
            )
        codes[task] = int(code[1]) if code else None
    stage = codes.pop(gardner.EXP)
    return {
        gardner.EXP: None if stage is None else gardner.expansion(stage + 1),
        **{task: None if code is None else _LETTERS[code] for task, code in codes.items()},
    }
