"""The data sets that can be trained on: one file each, whose docstring is the data sheet.

:data:`DATASETS` is tried from top to bottom; the first that recognises the files below a location
reads them. A set is a module with two functions, as :class:`DataSet` says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from fertiray.data.datasets import (
    class_folders,
    crop_store,
    hung_vuong,
    hushem,
    kromp,
    saeedi,
    smids,
    table,
    zona,
)
from fertiray.data.datasets.items import CLASS, Item, Listing


class DataSet(Protocol):
    """One data set, or one layout that many sets come in.

    Attributes:
        TITLE: what it is called in reports.
    """

    TITLE: str

    def matches(self, listing: Listing) -> bool:
        """Whether the files of a location are this set's, by their names."""

    def items(self, listing: Listing, tasks: Sequence[str]) -> Iterator[Item]:
        """The labelled images, unread.

        Args:
            listing: the files of the location.
            tasks: names of the tasks that are asked for.

        Raises:
            InputError: the layout is not complete; says what was sought, where, and what to do.
        """


DATASETS: tuple[DataSet, ...] = (
    crop_store,
    kromp,
    saeedi,
    hung_vuong,
    hushem,
    smids,
    zona,
    table,
    class_folders,
)


def recognise(listing: Listing) -> DataSet:
    """The first set of :data:`DATASETS` that the files belong to; the last one takes any."""
    return next(dataset for dataset in DATASETS if dataset.matches(listing))


__all__ = ["CLASS", "DATASETS", "DataSet", "Item", "Listing", "recognise"]
