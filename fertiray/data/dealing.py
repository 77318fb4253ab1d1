"""Dealing groups out to parts: the arithmetic behind :mod:`fertiray.data.splits`.

Groups are dealt out one by one. The order is that of a hash of the seed and the group's name (the
least name of its items), not of a random generator, so that it depends on the items alone: neither
on their order nor on a library's version. Each group goes to the part where it reduces the distance
to the wanted numbers most, by chi-squared: with ``n`` of its items in a stratum, a part that has
``x`` of ``t`` there and is owed the share ``q`` pays ``((x + n - t)^2 - (x - t)^2) / q``. Where all
groups are single items the wanted numbers are met exactly.

Shapes: G groups, S strata, P parts, C classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fertiray.errors import InputError

Indices = NDArray[np.int64]


def deal(
    strata: Indices,
    groups: Indices,
    sizes: list[int],
    seed: int,
    names: Sequence[str] | None,
    classes: Indices | None,
) -> list[Indices]:
    """The items of each part.

    Args:
        strata: int64 code per item of what is kept in proportion.
        groups: int64 group per item; a group goes to one part.
        sizes: wanted number of items of each part.
        seed: of the order.
        names: what identifies each item; its place where None.
        classes: int64 class per item, of which every part gets some; the strata where None.

    Returns:
        Sorted indices by part.

    Raises:
        InputError: fewer groups than parts, or a class with a group for every part that could not
            be dealt to all of them.
    """
    names = names if names is not None else [str(place) for place in range(len(strata))]
    _, strata = np.unique(strata, return_inverse=True)
    _, kinds = np.unique(classes if classes is not None else strata, return_inverse=True)
    _, groups = np.unique(groups, return_inverse=True)
    count = int(groups.max(initial=-1)) + 1
    if count < len(sizes):
        raise InputError(
            f"{len(sizes)} parts need as many patients or images that differ, found {count}: add"
            " data, or ask for fewer parts"
        )
    content = np.zeros((count, int(strata.max()) + 1), np.int64)  # G x S
    np.add.at(content, (groups, strata), 1)
    wanted = _wanted(content.sum(0), sizes)  # P x S
    order = _order(groups, names, seed)
    part_of = _fill(content, wanted, np.array(sizes), order)
    holds = np.zeros((count, int(kinds.max()) + 2), np.bool_)  # G x C, and a last one that all have
    holds[groups, kinds] = True
    holds[:, -1] = True
    _cover(part_of, content, holds, len(sizes), order)
    return [np.flatnonzero(part_of[groups] == part) for part in range(len(sizes))]


def _order(groups: Indices, names: Sequence[str], seed: int) -> list[int]:
    """Groups in an order that only the seed and the least name of each decide."""
    least: dict[int, str] = {}
    for group, name in zip(groups.tolist(), names, strict=True):
        least[group] = min(least.get(group, name), name)
    keys = {
        group: (hashlib.sha256(f"{seed} {name}".encode()).hexdigest(), name)
        for group, name in least.items()
    }
    return sorted(keys, key=keys.__getitem__)


def _wanted(totals: Indices, sizes: list[int]) -> Indices:
    """P x S whole numbers: each stratum in the parts' proportions, each part of its size.

    Rows and columns of the proportional table are rounded at once; what a stratum has left over
    goes to the parts that are owed most.
    """
    exact = np.outer(sizes, totals) / max(1, sum(sizes))
    wanted = np.floor(np.round(exact, 9)).astype(np.int64)
    owed = np.array(sizes) - wanted.sum(1)
    for stratum in np.argsort(totals, kind="stable"):
        left = int(totals[stratum] - wanted[:, stratum].sum())
        rest = np.round(exact[:, stratum] - wanted[:, stratum], 9)
        # lexsort sorts by its last key first. Those owed most come first: that is what leaves a
        # whole-numbered table with these row and column sums (Gale and Ryser 1957).
        ranked = np.lexsort((np.arange(len(sizes)), -rest, -owed))
        wanted[ranked[:left], stratum] += 1
        owed[ranked[:left]] -= 1
    return wanted


def _fill(content: Indices, wanted: Indices, sizes: Indices, order: list[int]) -> Indices:
    """The part of each group: large groups first, each where it fits best."""
    weight = sizes.sum() / np.outer(sizes, content.sum(0))  # 1 / q of the module's docstring
    have = np.zeros(wanted.shape, np.int64)
    part_of = np.zeros(len(content), np.int64)
    for group in sorted(order, key=lambda group: -int(content[group].sum())):
        own = content[group]
        cost = ((own * (own + 2 * (have - wanted))) * weight).sum(1)
        part = int(np.round(cost, 6).argmin())
        part_of[group] = part
        have[part] += own
    return part_of


def _cover(
    part_of: Indices,
    content: Indices,
    holds: NDArray[np.bool_],
    parts: int,
    order: list[int],
) -> None:
    """Moves single groups until no part is empty or lacks a class that has a group for each part.

    Raises:
        InputError: no move does.
    """
    number = np.array([holds[part_of == part].sum(0) for part in range(parts)])  # P x C
    needed = np.flatnonzero(holds.sum(0) >= parts)
    for kind in needed:
        for part in np.flatnonzero(number[:, kind] == 0):
            best: tuple[float, int] | None = None
            for group in order:
                home = part_of[group]
                # A group is free to go if its part keeps another of each class that it holds.
                if (
                    holds[group, kind]
                    and (number[home, needed] - holds[group, needed] > 0)[
                        holds[group, needed]
                    ].all()
                ):
                    size = float(content[group].sum())
                    if best is None or size < best[0]:
                        best = (size, group)
            if best is None:
                what = "crop" if kind == holds.shape[1] - 1 else f"crop of class number {kind}"
                raise InputError(
                    f"one of {parts} parts would get no {what}: add crops from more patients, or"
                    " take another seed"
                )
            group = best[1]
            number[part_of[group]] -= holds[group]
            number[part] += holds[group]
            part_of[group] = part
