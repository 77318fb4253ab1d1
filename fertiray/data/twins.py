"""Which pictures of a set show the same, and which of those contradict each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from fertiray.data.frame import one_thread
from fertiray.data.near_duplicates import near_pairs
from fertiray.data.reading import Excluded, Picture
from fertiray.processes import cores


@dataclass(frozen=True)
class Twins:
    """Pictures that are identical or nearly so.

    Attributes:
        pairs: near duplicates: indices of two pictures and their similarity. Of pictures with the
            same pixels the first one stands for all.
        clusters: a number for each picture, the same for all that identity or near identity joins,
            be it through others.
    """

    pairs: tuple[tuple[int, int, float], ...]
    clusters: NDArray[np.int64]


def find_twins(pictures: Sequence[Picture]) -> Twins:
    """Compares all pictures of a set.

    Args:
        pictures: in the order of :func:`fertiray.data.reading.read_pictures`.
    """
    first: dict[str, int] = {}
    for index, picture in enumerate(pictures):
        first.setdefault(picture.digest, index)
    different = [*first.values()]
    thumbnails = np.stack([pictures[index].thumbnail for index in different])
    with one_thread():
        near = near_pairs(thumbnails, cores())
    pairs = tuple((different[one], different[other], score) for one, other, score in near)
    links = [(first[picture.digest], index) for index, picture in enumerate(pictures)]
    rows, columns = zip(*links, *((one, other) for one, other, _ in pairs), strict=True)
    graph = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(pictures), len(pictures)))
    return Twins(pairs, np.asarray(connected_components(graph, directed=False)[1], np.int64))


def contradictions(pictures: Sequence[Picture], twins: Twins) -> dict[int, Excluded]:
    """The pictures of clusters in which some task has two labels, by index, and why.

    Which of the labels is right cannot be known, so the whole cluster is in doubt.
    """
    members: dict[int, list[int]] = {}
    for index, cluster in enumerate(twins.clusters.tolist()):
        members.setdefault(cluster, []).append(index)
    near = {(one, other) for one, other, _ in twins.pairs}
    found: dict[int, Excluded] = {}
    for cluster in members.values():
        if _contradictory([pictures[index].labels for index in cluster]):
            for index in cluster:
                detail = _why(pictures, index, cluster, near)
                found[index] = Excluded(pictures[index].name, "contradiction", detail)
    return found


def _contradictory(labels: Sequence[Mapping[str, str | None]]) -> bool:
    """Whether some task is graded in two ways."""
    return any(len({own[task] for own in labels} - {None}) > 1 for task in labels[0])


def _differ(one: Picture, other: Picture) -> bool:
    """Whether both are graded for some task, and not the same."""
    return any(
        label is not None and other.labels.get(task) not in (None, label)
        for task, label in one.labels.items()
    )


def _why(
    pictures: Sequence[Picture], index: int, cluster: Sequence[int], near: set[tuple[int, int]]
) -> str:
    own = pictures[index]
    others = [i for i in cluster if _differ(own, pictures[i])]
    if not others:
        return "one of several nearly identical images whose labels contradict each other"
    same = [i for i in others if pictures[i].digest == own.digest]
    if same:
        other = pictures[same[0]]
        return f"the same pixels as {other.name}, labelled {described(other.labels)}"
    direct = [i for i in others if (index, i) in near or (i, index) in near]
    other = pictures[(direct or others)[0]]
    through = "" if direct else "through others, "
    return f"{through}nearly identical to {other.name}, labelled {described(other.labels)}"


def described(labels: Mapping[str, str | None]) -> str:
    """Labels in words: the class, or ``EXP 1, ICM A`` where there are several tasks."""
    if len(labels) == 1:
        return str(next(iter(labels.values())))
    return ", ".join(f"{task} {label}" for task, label in labels.items() if label is not None)
