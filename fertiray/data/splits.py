"""Splits without leakage: stratified by class, whole groups on one side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from fertiray.errors import InputError


def join_groups(*keys: Sequence[str | None]) -> NDArray[np.int64]:
    """Groups of items that share any key: the same patient, or the same pixels.

    Args:
        keys: one or more sequences of equal length, a key per item; ``None`` joins nothing.

    Returns:
        An int64 group number per item.
    """
    count = len(keys[0])
    rows: list[int] = []
    columns: list[int] = []
    for sequence in keys:
        first: dict[str, int] = {}
        for item, key in enumerate(sequence):
            if key is not None:
                rows.append(first.setdefault(key, item))
                columns.append(item)
    links = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(count, count))
    return np.asarray(connected_components(links, directed=False)[1], dtype=np.int64)


def holdout(
    labels: NDArray[np.int64], groups: NDArray[np.int64], share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Training and held-out indices, stratified, each group on one side.

    Args:
        labels: class index per item.
        groups: group number per item.
        share: held-out share, in (0, 0.5]; rounded to one over a whole number.
        seed: of the shuffle.

    Raises:
        InputError: fewer groups than parts, or a class that would be on one side only.
    """
    parts = max(2, round(1 / share))
    if len(np.unique(groups)) < parts:
        raise InputError(
            f"a held-out share of {share:g} needs at least {parts} patients or images that differ,"
            f" found {len(np.unique(groups))}: add data or raise validation"
        )
    folds = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
    training, held_out = next(folds.split(np.zeros(len(labels)), labels, groups))
    for name, part in (("training", training), ("held-out", held_out)):
        missing = set(np.unique(labels)) - set(np.unique(labels[part]))
        if missing:
            raise InputError(
                f"class number {min(missing)} has no crop in the {name} part: it needs crops from"
                " more patients, or another seed"
            )
    return np.sort(training), np.sort(held_out)
