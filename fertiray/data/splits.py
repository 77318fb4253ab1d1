"""Splits without leakage: stratified, whole groups on one side, the same on every machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from fertiray.data import split_files
from fertiray.data.dealing import Indices, deal
from fertiray.errors import InputError

if TYPE_CHECKING:
    from fertiray.data.labelled import LabelledCrops

PARTS = ("training", "validation", "test")


@dataclass(frozen=True)
class Parts:
    """Indices of the crops of each part, sorted.

    Attributes:
        training: to learn from.
        validation: to choose the epoch by; may be empty.
        test: not looked at until the end; may be empty.
    """

    training: Indices
    validation: Indices
    test: Indices


def three_parts(
    strata: Indices,
    groups: Indices,
    *,
    validation: float,
    test: float,
    seed: int,
    names: Sequence[str] | None = None,
    classes: Indices | None = None,
) -> Parts:
    """Training, validation and test, in any shares, each group on one side.

    Sizes are those of scikit-learn's two-stage split: ``ceil(test * n)`` for the test,
    ``ceil((validation + test) * n)`` for both. 801 images in shares of 0.1 give 640, 80 and 81; the
    216 of HuSHeM in shares of 0.15 give 151, 32 and 33. Where groups are single images each stratum
    is met to within one image; larger groups may miss by about a group.

    Args:
        strata: int64 code per item of what is kept in proportion: the class, or finer.
        groups: int64 group per item.
        validation: share of it, in [0, 1).
        test: share of it, in [0, 1); together below 1.
        seed: of the order in which groups are dealt out.
        names: what identifies each item whatever its place, such as pixel digests; by default its
            place.
        classes: int64 class per item where the strata are finer: every part gets every class.

    Raises:
        InputError: too few groups, or a class with a group for every part that could not be dealt
            to all of them; a part that would stay empty.
    """
    if min(validation, test) < 0 or validation + test >= 1:
        raise InputError(
            f"validation {validation:g} and test {test:g}: give shares from 0, together below 1"
        )
    count = len(strata)
    held_out, tested = _ceil((validation + test) * count), _ceil(test * count)
    sizes = {"training": count - held_out, "validation": held_out - tested, "test": tested}
    if not sizes["training"]:
        raise InputError(
            f"validation {validation:g} and test {test:g} leave none of {count} images to learn"
            " from: lower them or add data"
        )
    wanted = {name: size for name, size in sizes.items() if size or name == "training"}
    dealt = deal(strata, groups, [*wanted.values()], seed, names, classes)
    by_name = dict(zip(wanted, dealt, strict=True))
    return Parts(*(by_name.get(name, np.zeros(0, np.int64)) for name in PARTS))


def folds(
    strata: Indices,
    groups: Indices,
    k: int,
    seed: int,
    names: Sequence[str] | None = None,
    classes: Indices | None = None,
) -> list[Indices]:
    """The test indices of each of k folds, sorted; every item is in one of them.

    Args:
        strata: as in :func:`three_parts`.
        groups: see there.
        k: number of folds, at least 2.
        seed: see there.
        names: see there.
        classes: see there.

    Raises:
        InputError: see there.
    """
    if k < 2:
        raise InputError(f"folds {k}: cross-validation needs two or more")
    sizes = [len(strata) // k + (fold < len(strata) % k) for fold in range(k)]
    return deal(strata, groups, sizes, seed, names, classes)


def save_split(place: str, crops: LabelledCrops, parts: Parts, *, seed: int, rule: str) -> str:
    """Writes a split with all that identifies it (:mod:`fertiray.data.split_files`).

    Args:
        place: JSON file to write, local or ``s3://``.
        crops: the data.
        parts: their split.
        seed: that it was made with.
        rule: how it was made, for the reader.

    Returns:
        The digest of the split: the same for the same pixels and labels in the same parts.
    """
    by_name = {name: getattr(parts, name) for name in PARTS}
    return split_files.save(place, crops, by_name, seed=seed, rule=rule)


def load_split(place: str, crops: LabelledCrops) -> Parts:
    """Reads a split and finds its parts in the data, by their pixels.

    Args:
        place: file that :func:`save_split` wrote.
        crops: the data; files may have been moved or renamed.

    Raises:
        InputError: no such file, or the data are not those of the split; says what differs.
    """
    return Parts(**split_files.load(place, crops, PARTS))


def join_groups(*keys: Sequence[str | None]) -> Indices:
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


def _ceil(number: float) -> int:
    return math.ceil(round(number, 9))  # 0.3 * 10 is a little more than 3
