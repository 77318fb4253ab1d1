"""Do embryologists grade alike? Kappas, percent agreement, accuracy against the consensus.

The graded blastocysts of Kromp et al., An annotated human blastocyst dataset to benchmark deep
learning architectures for in vitro fertilization, Scientific Data 10:271, 2023, whose 300 test
images each were shown to several of eleven annotators and to one expert in Gardner's grades. The
rules for what counts are those of the code that its authors published with it
(software-competence-center-hagenberg/Blastocyst-Dataset).

Shapes: N images, A annotators, K categories, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fertiray import storage
from fertiray.data.datasets.gardner import EXP, TASKS
from fertiray.data.datasets.tables import UNGRADED, read_table
from fertiray.errors import InputError
from fertiray.evaluation.groups import share
from fertiray.evaluation.metrics import fold_summary

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

EXPERT, CONSENSUS = "Gardner_Expert", "test_rev"
NOT_SHOWN, NO_GRADE, NOT_DEFINED = -2, -1, 3
PANEL_LEAST = 0.5
"""An annotator whose mean agreement with the expert lies below this is not of the panel."""


def cohen(
    a: ArrayLike,
    b: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    seed: int = 0,
    resamples: int = 2000,
) -> dict[str, Any]:
    """Agreement of two annotators on the same images.

    Cohen, Educational and Psychological Measurement 20:37-46, 1960; weighted: Psychological
    Bulletin 70:213-220, 1968, disagreement counting by the square of its distance.

    Args:
        a: N whole numbers, the grades of one, in their order (for the weighted kappa).
        b: N grades of the other.
        groups: N values, what was sampled together (the patient); the bootstrap draws whole groups.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Returns:
        ``n``; ``agreement``, a share with Wilson's interval, which takes images as independent;
        ``kappa``, ``kappa_ci``, ``weighted_kappa``, ``weighted_kappa_ci`` (percentiles, 95%). None
        where there is no image or both use one and the same grade only; an interval is None too
        where the resamples do not differ.
    """
    first, second = np.asarray(a, np.int64), np.asarray(b, np.int64)
    return _cohen(first, second, _draws(groups, len(first), seed, resamples))


def _draws(groups: ArrayLike | None, n: int, seed: int, resamples: int) -> Floats:
    """How often each image is in each resample, R x N."""
    if n == 0:
        return np.empty((resamples, 0))
    own = np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    count = int(own.max()) + 1
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples)
    return times[:, own].astype(np.float64)


def _cohen(first: Ints, second: Ints, draws: Floats) -> dict[str, Any]:
    grades = np.unique(np.concatenate([first, second]))
    k = len(grades)
    cell = np.searchsorted(grades, first) * k + np.searchsorted(grades, second)
    cells = np.eye(k * k)[cell]
    distance = np.abs(grades[:, None] - grades[None]).astype(np.float64)
    found: dict[str, Any] = {
        "n": len(first),
        "agreement": share(int((first == second).sum()), len(first)),
    }
    for name, cost in (("kappa", np.sign(distance)), ("weighted_kappa", distance**2)):
        point = _kappa(cells.sum(0)[None], cost)
        found |= _estimate(name, point, _kappa(draws @ cells, cost))
    return found


def _kappa(cells: Floats, cost: Floats) -> Floats:
    """1 - cost of what was seen / cost of what chance would give, from R x K^2 counts."""
    k = len(cost)
    table = cells.reshape(len(cells), k, k)
    chance = np.einsum("ri,rj,ij->r", table.sum(2), table.sum(1), cost)
    seen = np.einsum("rij,ij->r", table, cost) * table.sum((1, 2))
    return 1 - _ratio(seen, chance)


def _ratio(part: Floats, whole: Floats) -> Floats:
    """NaN where the whole is 0."""
    out = np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan)
    return np.asarray(np.divide(part, whole, out=out, where=whole > 0))


def fleiss(
    grades: ArrayLike, *, groups: ArrayLike | None = None, seed: int = 0, resamples: int = 2000
) -> dict[str, Any]:
    """Agreement of any number of annotators, not all of whom grade every image.

    Fleiss, Psychological Bulletin 76:378-382, 1971, as Gwet extends it to missing grades (Handbook
    of Inter-Rater Reliability, 4th edition, 2014, chapter 2): agreement is the mean over images
    with two grades or more of the share of agreeing pairs; chance is the sum of the squared mean
    shares of the categories over all graded images. statsmodels' takes complete tables only.

    Args:
        grades: N x A whole numbers; negative where an annotator gave none.
        groups: see :func:`cohen`, as the next two.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Returns:
        ``n`` (images with two grades or more), ``grades`` (how many in all), ``agreement``,
        ``agreement_ci``, ``kappa``, ``kappa_ci``; None as in :func:`cohen`.
    """
    table = np.asarray(grades, np.int64)
    return _fleiss(table, _draws(groups, len(table), seed, resamples))


def _fleiss(table: Ints, draws: Floats) -> dict[str, Any]:
    kinds = np.unique(table[table >= 0])
    counts = (table[:, :, None] == kinds).sum(1).astype(np.float64)  # N x K
    n = counts.sum(1)
    graded, paired = (n > 0).astype(np.float64), (n > 1).astype(np.float64)
    agreeing = (counts * (counts - 1)).sum(1) / np.where(n > 1, n * (n - 1), 1)
    shares = counts / np.maximum(n, 1)[:, None]

    def both(weights: Floats) -> tuple[Floats, Floats]:
        agreement = _ratio(weights @ agreeing, weights @ paired)
        chance = (_ratio(weights @ shares, (weights @ graded)[:, None]) ** 2).sum(1)
        # One category only: chance is 1 but for rounding.
        return agreement, _ratio(agreement - chance, np.where(chance < 1 - 1e-12, 1 - chance, 0))

    points, resampled = both(np.ones((1, len(table)))), both(draws)
    found: dict[str, Any] = {"n": int(paired.sum()), "grades": int(n.sum())}
    for name, point, values in zip(("agreement", "kappa"), points, resampled, strict=True):
        found |= _estimate(name, point, values)
    return found


def _estimate(name: str, point: Floats, resampled: Floats) -> dict[str, Any]:
    known = resampled[np.isfinite(resampled)]
    # Resamples that are all alike (full agreement, one patient) say nothing of other images.
    varied = len(known) > 0 and np.ptp(known) > 0
    return {
        name: float(point[0]) if np.isfinite(point[0]) else None,
        f"{name}_ci": [float(x) for x in np.percentile(known, [2.5, 97.5])] if varied else None,
    }


def gardner_agreement(folder: str, *, seed: int = 0, resamples: int = 2000) -> dict[str, Any]:
    """How far the annotators of Kromp et al. agree, by task.

    What is a grade: expansion 0 to 4 (Gardner's 1 to 5); inner cell mass and trophectoderm 0 to 2
    (A to C), from an annotator who puts the expansion at 2 (a full blastocyst) or more, below which
    they are not defined. Kappas take the images that both graded. Accuracy against the consensus
    also counts, as wrong, a letter that an annotator owed but did not give: he put the expansion at
    2 or more, or left it out, and the consensus has a letter.

    The panel are the annotators whose codes agree with the expert's, on the mean over the three
    tasks, for at least half of their images. The consensus was made of the panel's and the expert's
    grades, so their accuracy against it is optimistic, the others' is not.

    Args:
        folder: with ``annotations/``: ``Annotator_*.csv``, ``Gardner_Expert.csv`` and the consensus
            ``test_rev.csv``, each with image, EXP, ICM, TE and no header.
        seed: of the bootstrap, which draws patients (the digits before the underscore).
        resamples: of the bootstrap.

    Returns:
        ``images``, ``patients``; ``annotators``; ``panel``; ``expert_agreement`` by annotator;
        ``tasks`` by task: ``fleiss`` of all annotators with the expert, ``fleiss_panel`` of the
        panel with the expert; ``pairs``, :func:`cohen` of every two, with ``a`` and ``b``;
        ``consensus``, by annotator and expert ``accuracy`` (a share, see
        :func:`fertiray.evaluation.groups.share`) and :func:`cohen`; ``panel_accuracy``, mean and sd
        over the panel.

    Raises:
        InputError: a file is missing, or holds a code that is none.
    """
    tables = _read(folder)
    images = sorted({image for table in tables.values() for image in table})
    blank = [NOT_SHOWN] * len(TASKS)
    codes = {  # N x 3
        name: np.array([table.get(image, blank) for image in images], np.int64)
        for name, table in tables.items()
    }
    consensus = codes.pop(CONSENSUS)
    annotators = [name for name in codes if name != EXPERT]
    expert_agreement = {name: _agree(codes[name], codes[EXPERT]) for name in annotators}
    panel = [name for name in annotators if expert_agreement[name] >= PANEL_LEAST]
    patients = [image.rpartition("/")[2].partition("_")[0] for image in images]
    draws = _draws(patients, len(images), seed, resamples)
    tasks = {}
    for number, task in enumerate(TASKS):
        grades = {name: _grades(table, number) for name, table in codes.items()}
        pairs = [
            {"a": a, "b": b, **_both(grades[a], grades[b], draws)}
            for a, b in combinations(grades, 2)
        ]
        against = {
            name: {
                "accuracy": _accuracy(codes[name], consensus, number),
                **_both(own, _grades(consensus, number), draws),
            }
            for name, own in grades.items()
        }
        tasks[task] = {
            "fleiss": _fleiss(np.stack(list(grades.values()), 1), draws),
            "fleiss_panel": _fleiss(np.stack([grades[n] for n in [*panel, EXPERT]], 1), draws),
            "pairs": pairs,
            "consensus": against,
            "panel_accuracy": fold_summary([against[n]["accuracy"]["share"] for n in panel]),
        }
    counts = {"images": len(images), "patients": len(set(patients))}
    chosen = {"annotators": annotators, "panel": panel, "expert_agreement": expert_agreement}
    return {**counts, **chosen, "tasks": tasks}


def _both(a: Ints, b: Ints, draws: Floats) -> dict[str, Any]:
    """:func:`cohen` on the images that both graded."""
    shared = (a >= 0) & (b >= 0)
    return _cohen(a[shared], b[shared], draws[:, shared])


def _agree(codes: Ints, expert: Ints) -> float:
    """Mean over the tasks of the share of equal codes, 3 (not defined) being one of them."""
    known = (codes >= 0) & (expert >= 0)
    return float(np.mean(((codes == expert) & known).sum(0) / np.maximum(known.sum(0), 1)))


def _grades(codes: Ints, task: int) -> Ints:
    """The grades in a task, N, NO_GRADE where there is none."""
    own = codes[:, task]
    if TASKS[task] == EXP:
        return np.maximum(own, NO_GRADE)
    return np.where(_early(codes) | (own < 0) | (own == NOT_DEFINED), NO_GRADE, own)


def _early(codes: Ints) -> NDArray[np.bool_]:
    """Where the annotator saw no full blastocyst yet."""
    return np.isin(codes[:, 0], (0, 1))


def _accuracy(codes: Ints, consensus: Ints, task: int) -> dict[str, Any]:
    own, truth = _grades(codes, task), _grades(consensus, task)
    if TASKS[task] == EXP:
        owed = own >= 0
    else:
        unseen = (codes[:, 0] == NO_GRADE) & (codes[:, task] == NOT_DEFINED)
        owed = (codes[:, 0] > NOT_SHOWN) & ~_early(codes) & ~unseen
    counted = owed & (truth >= 0)
    return share(int((counted & (own == truth)).sum()), int(counted.sum()))


def _read(folder: str) -> dict[str, dict[str, list[int]]]:
    """Codes of the three tasks by image, by the name of the file."""
    place = storage.join(folder, "annotations")
    listed = storage.list_files(place, ".csv")
    files = {file.rpartition("/")[2].removesuffix(".csv"): file for file in listed}
    names = [name for name in files if name.startswith("Annotator_")]
    if not names or EXPERT not in files or CONSENSUS not in files:
        raise InputError(
            f"{place}: needs Annotator_*.csv, {EXPERT}.csv and {CONSENSUS}.csv; put the annotations"
            " of Kromp et al. there"
        )
    ordered = [*sorted(names, key=lambda name: (len(name), name)), EXPERT, CONSENSUS]
    return {name: _table(files[name]) for name in ordered}


def _table(file: str) -> dict[str, list[int]]:
    columns = [task.lower() for task in TASKS]
    rows = read_table(file, ("image", *columns))
    return {row["image"]: [_code(file, row, column) for column in columns] for row in rows}


def _code(file: str, row: Mapping[str, str], column: str) -> int:
    text, most = row[column], 4 if column == EXP.lower() else NOT_DEFINED
    codes = {form: code for code in range(most + 1) for form in (f"{code}", f"{code}.0")}
    codes |= dict.fromkeys([*UNGRADED, "-1.0"], NO_GRADE)
    if text.lower() not in codes:
        where = f"{file}: line {row['#']}: {column.upper()} {text!r}"
        raise InputError(f"{where} is no code; give 0 to {most}, or nothing")
    return codes[text.lower()]
