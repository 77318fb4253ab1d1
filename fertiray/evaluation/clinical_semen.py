"""Semen analysis beside a model's result: which tells low from high fertilisation better?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fertiray.evaluation.groups import holm, share
from fertiray.evaluation.roc import auc, compare_auc

Floats = NDArray[np.float64]

SEMEN: dict[str, float] = {
    "volume_ml": 1.4,
    "concentration_m_per_ml": 16,
    "total_count_m": 39,
    "total_motility_percent": 42,
    "progressive_motility_percent": 30,
    "vitality_percent": 54,
    "normal_forms_percent": 4,
}
"""WHO's lower reference limits by column, a man below one being out of range.

World Health Organization, WHO laboratory manual for the examination and processing of human semen,
6th edition, 2021, 5th centiles of men whose partners conceived within a year (Campbell et al.,
Andrology 9:817-820, 2021). The zona paper quotes the 5th edition's (1.5 ml, 15 million/ml, 40%,
32%, 58%) under the 6th's name. ``_m`` are millions.
"""

LEAST = 3
"""Fewest patients of a group with which anything is compared."""


def compare_semen(
    semen: Mapping[str, Floats], values: Floats, groups: Sequence[str], names: tuple[str, ...]
) -> dict[str, Any]:
    """Every semen parameter against the model's value.

    Args:
        semen: N numbers by parameter, NaN where not measured.
        values: N values of the model.
        groups: N names.
        names: the groups' names, the one of low fertilisation first and of high last.

    Returns:
        ``parameters``, each with ``parameter``, ``limit``, ``n_low``, ``n_high``; ``below``, the
        share of men below the limit by group; ``auc`` (:func:`fertiray.evaluation.roc.auc`, high
        against low) and ``against_value``, DeLong's test of the model's value (a) against the
        parameter (b) on the men who have both, with ``p_holm`` over the parameters; both None, with
        a ``reason``, where fewer than three men of a group have it. ``any_below``: the share by
        group of men with at least one parameter below its limit, of those with any measured.
    """
    member = {name: np.array([group == name for group in groups], bool) for name in names}
    low, high = member[names[0]], member[names[-1]]
    rows = []
    for name, numbers in semen.items():
        known = np.isfinite(numbers)
        below = known & (numbers < SEMEN[name])
        chosen = known & (low | high)
        row: dict[str, Any] = {
            "parameter": name,
            "limit": SEMEN[name],
            "n_low": int((known & low).sum()),
            "n_high": int((known & high).sum()),
            "below": _shares(below, known, member),
            "auc": None,
            "against_value": None,
            "reason": None,
        }
        if min(row["n_low"], row["n_high"]) < LEAST:
            row["reason"] = f"fewer than {LEAST} men of low or of high fertilisation have it"
        else:
            truth = high[chosen]
            row["auc"] = auc(numbers[chosen], truth)
            row["against_value"] = compare_auc(values[chosen], numbers[chosen], truth)
        rows.append(row)
    tested = [row["against_value"] for row in rows if row["against_value"]]
    for test, p_holm in zip(tested, holm([test["p"] for test in tested]), strict=True):
        test["p_holm"] = p_holm
    table = np.array(list(semen.values())).reshape(len(semen), len(values))
    limits = np.array([SEMEN[name] for name in semen])[:, None]
    out, measured = np.any(table < limits, axis=0), np.any(np.isfinite(table), axis=0)
    return {"parameters": rows, "any_below": _shares(out, measured, member)}


def _shares(
    hits: NDArray[np.bool_], of: NDArray[np.bool_], member: Mapping[str, NDArray[np.bool_]]
) -> dict[str, Any]:
    return {
        name: share(int((hits & of & own).sum()), int((of & own).sum()))
        for name, own in member.items()
    }
