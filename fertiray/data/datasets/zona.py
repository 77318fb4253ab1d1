"""Spermatozoa that did or did not bind to the zona pellucida.

What
    Head crops of Diff-Quik stained sperm, bound and unbound. The paper's own images (1,083 and 220
    for the test; 117 men with more than 33,000 unlabelled crops) are not public. Cohorts of the
    same layout with known truth are drawn by ``fertiray data synth``.

Classes
    unbound, bound.

Layout
    Class folders, in which folders of patients and slides may lie; or the tree of patients and
    slides with a table that ``fertiray data synth`` writes. The first folder below the class, or
    the first of the tree, is the patient where the table does not say::

        bound/P001/S1/crop-000001.png
        unbound/...

        P001/S1/crop-000001.png
        labels.csv                       image,label,patient_id,slide_id
        truth.json

Source and terms
    Leung E.T.Y. et al. Automatic identification of human spermatozoa with zona pellucida-binding
    capability using deep learning. Images on request from the authors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from fertiray.data.datasets import class_folders, table
from fertiray.data.datasets.items import Item, Listing

TITLE = "zona pellucida binding"

_CLASSES = {"bound", "unbound"}


def matches(listing: Listing) -> bool:
    """Whether there are class folders called so, or the tree with its table and truth."""
    if table.FILE in listing.files:
        return "truth.json" in listing.files
    found = class_folders.folders(listing)
    return bool(found) and found <= _CLASSES


def items(listing: Listing, tasks: Sequence[str]) -> Iterator[Item]:
    """The labelled crops with their patients.

    Raises:
        InputError: as for any set with a ``labels.csv``.
    """
    if table.FILE in listing.files:
        for item in table.items(listing, tasks):
            yield replace(item, patient=item.patient or _patient(item.name))
        return
    for name in listing.images:
        folder, _, rest = name.partition("/")
        if rest:
            place = listing.place(name)
            yield Item(name, place, {tasks[0]: folder}, _patient(rest), origin=place)


def _patient(path: str) -> str | None:
    folder, slash, _ = path.partition("/")
    return folder if slash else None
