"""SMIDS: sperm morphology image data set.

What
    3,000 RGB patches cut out of photographs of stained smears, sides of 80 to 264 px. Patients are
    not published.

Classes
    Normal_Sperm 1,021, Abnormal_Sperm 1,005, Non-Sperm 974.

Known faults
    Many cells were cut out of two photographs or twice out of one. In 2,400 of the patches (200 of
    each class missing) 49 pairs are pixel-identical, four of them with two labels, and 96 more show
    the same cell. See ``fertiray data check``.

Layout::

    Normal_Sperm/Normal_Sperm (1).bmp        BMP, or WebP without loss
    Abnormal_Sperm/  Non-Sperm/

Source and terms
    Ilhan H.O., Aydin N. SMIDS: sperm morphology image data set. Mendeley Data (2018), doi
    10.17632/6xvdhc9fyb.1.
"""

from __future__ import annotations

from fertiray.data.datasets import class_folders
from fertiray.data.datasets.class_folders import items
from fertiray.data.datasets.items import Listing

__all__ = ["TITLE", "items", "matches"]

TITLE = "SMIDS"

_FOLDERS = {"Normal_Sperm", "Abnormal_Sperm", "Non-Sperm"}


def matches(listing: Listing) -> bool:
    """Whether there is a folder of one of the three classes."""
    return bool(class_folders.folders(listing) & _FOLDERS)
