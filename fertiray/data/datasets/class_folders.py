"""Any set in class folders.

What
    The layout that most image sets come in. Files that do not end as an image does are passed over,
    and so are images that lie deeper.

Classes
    The name of an image's folder, without a leading number and underscore (``01_Normal`` is
    ``Normal``).

Layout::

    Class/image.png
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from fertiray.data.datasets.items import Item, Listing

TITLE = "class folders"


def matches(listing: Listing) -> bool:
    """Always: this is the layout of last resort."""
    del listing
    return True


def items(listing: Listing, tasks: Sequence[str]) -> Iterator[Item]:
    """Every image of a class folder; the class belongs to the first task."""
    for name in listing.images:
        folder, _, rest = name.partition("/")
        if rest and "/" not in rest:
            yield Item(
                name, listing.place(name), {tasks[0]: class_of(folder)}, origin=listing.place(name)
            )


def class_of(folder: str) -> str:
    """The class that a folder's name stands for."""
    return re.sub(r"^\d+_", "", folder)


def folders(listing: Listing) -> set[str]:
    """Names of the folders at the root that images lie in."""
    return {name.partition("/")[0] for name in listing.images if "/" in name}
