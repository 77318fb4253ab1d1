"""HuSHeM: human sperm head morphology.

What
    216 RGB images of Diff-Quik stained sperm from fifteen patients of the Isfahan Fertility and
    Infertility Center, one head each, 100x objective, 131 x 131 px (six are a few pixels smaller).
    Three specialists were of one mind about every class. Whose head is whose is not published, so
    patients cannot be kept apart.

Classes
    Normal 54, Tapered 53, Pyriform 57, Amorphous 52.

Known faults
    Three pairs show the same head (02_Tapered 032/033, 03_Pyriform 031/032, 04_Amorphous 042/043).
    They carry the same label and are kept on one side of every split.

Layout::

    01_Normal/image_001.BMP
    02_Tapered/  03_Pyriform/  04_Amorphous/

Source and terms
    Shaker F., Monadjemi S.A., Alirezaie J., Naghsh-Nilchi A.R. A dictionary learning approach for
    human sperm heads classification. Computers in Biology and Medicine 91 (2017) 181-190. Mendeley
    Data, doi 10.17632/tt3yj2pf38. Cite the paper.
"""

from __future__ import annotations

import re

from fertiray.data.datasets import class_folders
from fertiray.data.datasets.class_folders import items
from fertiray.data.datasets.items import Listing

__all__ = ["TITLE", "items", "matches"]

TITLE = "HuSHeM"

_FOLDER = re.compile(r"\d\d_(Normal|Tapered|Pyriform|Amorphous)")


def matches(listing: Listing) -> bool:
    """Whether there is a numbered folder of one of the four classes."""
    return any(_FOLDER.fullmatch(folder) for folder in class_folders.folders(listing))
