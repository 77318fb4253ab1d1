"""Gardner's grades of a blastocyst, and the classes that the grading paper makes of them.

A grade such as ``4AB`` is the expansion (1 early, 2 blastocoel over half the volume, 3 full,
4 expanded, 5 hatching, 6 hatched), the inner cell mass (A to C) and the trophectoderm (A to C); the
two letters are given from expansion 3 on. The paper (blastocyst_memebg) has three classes of
expansion, which it does not define, and no C. Settled here:

=====  =====================================================================================
task   classes
=====  =====================================================================================
EXP    ``0``: not yet expanded (1 to 3); ``1``: expanded (4); ``2``: hatching or hatched (5, 6)
ICM    ``A``, ``B``; C is ungraded
TE     ``A``, ``B``; C is ungraded
=====  =====================================================================================
"""

from __future__ import annotations

import re

from fertiray.data.datasets.tables import grade

EXP, ICM, TE = TASKS = ("EXP", "ICM", "TE")

_EXPANSION = {"1": "0", "2": "0", "3": "0", "4": "1", "5": "2", "6": "2"}
_GRADE = re.compile(r"([1-6])\s*([A-C]?)\s*([A-C]?)", re.IGNORECASE)


def expansion(stage: int) -> str:
    """The paper's class of a Gardner expansion.

    Args:
        stage: 1 to 6.
    """
    return _EXPANSION[str(stage)]


def letter(value: str) -> str | None:
    """The paper's class of an inner cell mass or trophectoderm; None for C and where ungraded."""
    value = value.upper()
    return None if value == "C" else grade(value)


def whole(value: str) -> dict[str, str | None] | None:
    """The labels of a whole grade such as ``4AB`` or ``2``; None where it is none.

    Args:
        value: expansion, inner cell mass, trophectoderm, without anything else.
    """
    parts = _GRADE.fullmatch(value)
    if parts is None:
        return None
    return {EXP: _EXPANSION[parts[1]], ICM: letter(parts[2]), TE: letter(parts[3])}
