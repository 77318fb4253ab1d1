"""Synthetic cohorts with known truth: smear fields or single head crops of N patients.

Origin: drawn by this program from a seed; no picture of a person is in it. The looks of the two
classes, "bound" (could bind the zona pellucida) and "unbound", are stated in
:mod:`fertiray.data.looks`; scenes and styles are drawn by :mod:`fertiray.data.smear` and
:mod:`fertiray.data.render`. There is no public data with zona-pellucida labels, so this cohort
stands in for it: every number measured on it is a number about the program, not about people.

How separable: with the latent features known exactly, the best possible classifier is wrong on 1%
of balanced heads (:func:`fertiray.data.looks.bayes_error`); the drawing, the slides' stain, blur,
noise and a segmenter's errors leave a small network on the grey crops at 95 to 97% right. Patients
follow the three fertilisation groups of the VGG13 zona-pellucida paper (means 2.6, 14.9 and 20.2%
bound; threshold 4.9%): design fractions run from 0.5% to 30%.

Layout on disk::

    out/truth.json                       the plan and, per patient, n, n_bound and their quotient
    out/labels.csv                       crops: image,label,patient_id,slide_id
                                         fields: image,patient_id,slide_id
    out/heads.csv                        one row per counted head with its geometry (fields: in
                                         pixels of the field; crops: in pixels of the crop), label
                                         and latent features
    out/P001/S1/crop-000001.png          or
    out/P001/S1/field-0001.jpg

Every image has a random stream of its own, named by seed, patient, slide and number: the same
arguments give the same bytes whatever the number of workers. ``truth.json`` is written last.
"""

from __future__ import annotations

import csv
import json
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fertiray import storage
from fertiray.data.alignment import WINDOW_HEADS
from fertiray.data.looks import CLASSES, FEATURES, MEDIAN_LENGTH
from fertiray.data.render import Image
from fertiray.data.smear import (
    FIELD_SCALE,
    STAINS,
    Placed,
    patient_style,
    render_crop,
    render_field,
    slide_style,
)
from fertiray.errors import InputError
from fertiray.processes import Workers

Progress = Callable[[int, int], None]

_DESIGN = (0.005, 0.02, 0.10, 0.15, 0.20, 0.30)  # the three groups' fractions, evenly spread
_LOW, _HIGH = 0.049, 0.175  # the paper's threshold; halfway between its upper two group means
_CROPS_PER_TASK = 200


@dataclass(frozen=True)
class Plan:
    """Everything that decides a cohort; stored in ``truth.json``."""

    kind: str
    seed: int
    slides: int
    crops: int
    stain: str
    size: tuple[int, int]
    scale: float
    heads_per_field: int
    extension: str
    fractions: tuple[float, ...]
    version: int = 1  # of the drawing: raised whenever the same seed would give other pictures


@dataclass(frozen=True)
class _Task:
    """Heads ``first`` to ``last`` (exclusive) of one patient's slide: one field, or some crops."""

    out: str
    plan: Plan
    patient: int
    slide: int
    number: int  # of the field on its slide
    first: int
    last: int


def synth_crops(
    out: str | Path,
    *,
    patients: int,
    crops: int,
    seed: int = 0,
    slides: int = 2,
    fractions: float | Sequence[float] | None = None,
    stain: str = "blue",
    size: int = 128,
    workers: int = 1,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Writes a cohort of head-aligned crops (axis vertical, acrosome up) with known truth.

    Args:
        out: folder to write; absent, empty, or already holding this very cohort.
        patients: number of patients.
        crops: number of crops of each patient.
        seed: names the cohort, 0 or more.
        slides: slides of each patient; its crops are spread over them evenly.
        fractions: share of bound sperm, one for all patients or one for each; by default spread
            over the paper's low, intermediate and high groups.
        stain: "blue", "pink" or "mixed".
        size: pixels of a crop's side.
        workers: processes; the result does not depend on it.
        progress: called with (images written, images in all).

    Returns:
        What ``truth.json`` holds: the plan's fields and ``patients``, a list of ``patient_id,
        truth_bound_fraction, design_fraction, n, n_bound, group``.

    Raises:
        InputError: an argument makes no sense, or the folder holds something else.
    """
    _at_least(size, 32, "size")
    plan = Plan(
        kind="crops",
        seed=seed,
        slides=slides,
        crops=crops,
        stain=stain,
        size=(size, size),
        scale=size / (WINDOW_HEADS * MEDIAN_LENGTH),
        heads_per_field=1,
        extension="png",
        fractions=_shares(fractions, patients),
    )
    return _write(out, plan, workers, progress)


def synth_fields(
    out: str | Path,
    *,
    patients: int,
    crops: int,
    seed: int = 0,
    slides: int = 2,
    heads_per_field: int = 28,
    fractions: float | Sequence[float] | None = None,
    stain: str = "blue",
    size: tuple[int, int] = (1280, 1024),
    scale: float = FIELD_SCALE,
    extension: str = "jpg",
    workers: int = 1,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Writes a cohort of stained smear fields with exactly ``crops`` countable heads per patient.

    Counted (in ``truth.json`` and ``heads.csv``) are heads that lie whole inside a field and that
    no other head covers; heads cut by the border and crossed pairs are drawn beside them.

    Args:
        out: folder to write; absent, empty, or already holding this very cohort.
        patients: number of patients.
        crops: number of counted heads of each patient.
        seed: names the cohort, 0 or more.
        slides: slides of each patient; its heads are spread over them evenly.
        heads_per_field: counted heads of a field; a slide's last field holds the rest.
        fractions: share of bound sperm, one for all patients or one for each; by default spread
            over the paper's low, intermediate and high groups.
        stain: "blue", "pink" or "mixed".
        size: (width, height) of a field in pixels.
        scale: pixels per micrometre; a head is about 4.7 micrometres long.
        extension: "jpg" (as microscopes write) or "png".
        workers: processes; the result does not depend on it.
        progress: called with (images written, images in all).

    Returns:
        What ``truth.json`` holds, as :func:`synth_crops`.

    Raises:
        InputError: an argument makes no sense, or the folder holds something else.
    """
    _at_least(heads_per_field, 1, "heads_per_field")
    if extension not in ("jpg", "png"):
        raise InputError(f"extension {extension!r} is not written; use jpg or png")
    if not 4 <= scale <= 100:
        raise InputError(f"scale is {scale} pixels per micrometre; it must lie within 4 and 100")
    head = MEDIAN_LENGTH * scale
    room = (size[0] - 1.4 * head) * (size[1] - 1.4 * head)
    if min(size) < 2.5 * head or heads_per_field * head**2 > 0.42 * room:
        raise InputError(
            f"size {size[0]}x{size[1]}: no room for {heads_per_field} heads of {head:.0f} px; "
            "use larger fields, a smaller scale or fewer heads_per_field"
        )
    plan = Plan(
        kind="fields",
        seed=seed,
        slides=slides,
        crops=crops,
        stain=stain,
        size=(int(size[0]), int(size[1])),
        scale=float(scale),
        heads_per_field=heads_per_field,
        extension=extension,
        fractions=_shares(fractions, patients),
    )
    return _write(out, plan, workers, progress)


def design_fractions(patients: int) -> tuple[float, ...]:
    """Bound fractions for N patients, spread over the paper's groups; for six .005 ... .30."""
    if patients == 1:
        return (0.15,)
    at = np.linspace(0, len(_DESIGN) - 1, patients)
    return tuple(round(float(f), 4) for f in np.interp(at, range(len(_DESIGN)), _DESIGN))


def _at_least(value: int, low: int, name: str) -> None:
    if value < low:
        raise InputError(f"{name} is {value}; it must be {low} or more")


def _shares(fractions: float | Sequence[float] | None, patients: int) -> tuple[float, ...]:
    """One bound fraction for each patient."""
    _at_least(patients, 1, "patients")
    if fractions is None:
        return design_fractions(patients)
    if isinstance(fractions, int | float):
        return (float(fractions),) * patients
    if len(fractions) != patients:
        raise InputError(f"fractions: {len(fractions)} for {patients} patients; give one each")
    return tuple(float(share) for share in fractions)


def _check(plan: Plan, workers: int) -> None:
    _at_least(plan.crops, 1, "crops")
    _at_least(plan.slides, 1, "slides")
    _at_least(plan.seed, 0, "seed")
    _at_least(workers, 1, "workers")
    if plan.stain not in STAINS:
        raise InputError(f"stain {plan.stain!r} is not known; use one of {', '.join(STAINS)}")
    for share in plan.fractions:
        if not 0 <= share <= 1:
            raise InputError(f"fractions: {share} is not a share; each must lie within 0 and 1")


def _bound(plan: Plan, patient: int) -> int:
    """Number of bound sperm of a patient: the design fraction, rounded to whole sperm."""
    return math.floor(plan.fractions[patient] * plan.crops + 0.5)


def _truth(plan: Plan) -> dict[str, Any]:
    rows = []
    for patient, share in enumerate(plan.fractions):
        bound = _bound(plan, patient)
        rows.append(
            {
                "patient_id": f"P{patient + 1:03d}",
                "truth_bound_fraction": bound / plan.crops,
                "design_fraction": share,
                "n": plan.crops,
                "n_bound": bound,
                "group": "low" if share <= _LOW else "high" if share > _HIGH else "intermediate",
            }
        )
    described = asdict(plan) | {"size": list(plan.size), "fractions": list(plan.fractions)}
    return {**described, "patients": rows}


def _write(out: str | Path, plan: Plan, workers: int, progress: Progress | None) -> dict[str, Any]:
    """Writes images as they are made, the tables row by row, the truth at the end."""
    _check(plan, workers)
    if storage.is_remote(out):
        raise InputError(f"{out}: cohorts are written to a local folder; write there and copy")
    folder, truth = Path(out), _truth(plan)
    text = json.dumps(truth, indent=1)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        stored = folder / "truth.json"
        if stored.is_file() and stored.read_text() == text:
            return truth
        raise InputError(f"{out}: holds something other than this cohort; empty it or name another")
    folder.mkdir(parents=True, exist_ok=True)
    images = sum(1 if plan.kind == "fields" else t.last - t.first for t in _tasks(str(out), plan))
    done = 0
    with (
        (folder / "labels.csv").open("w", newline="") as labels_file,
        (folder / "heads.csv").open("w", newline="") as heads_file,
    ):
        labels = csv.writer(labels_file, lineterminator="\n")
        heads = csv.writer(heads_file, lineterminator="\n")
        label = ["label"] if plan.kind == "crops" else []
        labels.writerow(["image", *label, "patient_id", "slide_id"])
        heads.writerow(["image", "cx", "cy", "length", "width", "angle", "label", *_LATENT])
        for image_rows, head_rows in _run(_tasks(str(out), plan), workers):
            labels.writerows(image_rows)
            heads.writerows(head_rows)
            done += len(image_rows)
            if progress is not None:
                progress(done, images)
    storage.write_bytes(folder / "truth.json", text.encode())
    return truth


_LATENT = tuple(name if name != "length" else "length_um" for name in FEATURES)
_Rows = tuple[list[list[Any]], list[list[Any]]]


def _tasks(out: str, plan: Plan) -> Iterator[_Task]:
    per_task = plan.heads_per_field if plan.kind == "fields" else _CROPS_PER_TASK
    for patient in range(len(plan.fractions)):
        for slide in range(plan.slides):
            first = plan.crops * slide // plan.slides
            end = plan.crops * (slide + 1) // plan.slides
            for number, start in enumerate(range(first, end, per_task), 1):
                last = min(start + per_task, end)
                yield _Task(out, plan, patient, slide, number, start, last)


def _run(tasks: Iterator[_Task], workers: int) -> Iterator[_Rows]:
    """The tasks' rows in the order of the tasks, at most a few tasks per worker ahead."""
    if workers == 1:
        yield from map(_draw, tasks)
        return
    with Workers(workers, cv2.setNumThreads, 1) as pool:
        waiting: deque[Future[_Rows]] = deque(pool.submit(_draw, t) for t in islice(tasks, workers))
        while waiting:
            waiting.extend(pool.submit(_draw, t) for t in islice(tasks, 1))
            yield waiting.popleft().result()


def _stream(seed: int, *place: int) -> np.random.Generator:
    """The random stream of one thing, named by its place in the cohort."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=place))


def _draw(task: _Task) -> _Rows:
    """Draws and writes a task's images; its rows for ``labels.csv`` and ``heads.csv``."""
    plan, patient, slide = task.plan, task.patient, task.slide
    order = _stream(plan.seed, 0, patient).permutation(plan.crops)[task.first : task.last]
    labels = [CLASSES[int(i < _bound(plan, patient))] for i in order]
    style = patient_style(plan.stain, _stream(plan.seed, 1, patient))
    style = slide_style(style, _stream(plan.seed, 2, patient, slide))
    ids = [f"P{patient + 1:03d}", f"S{slide + 1}"]
    folder = Path(task.out, *ids)
    folder.mkdir(parents=True, exist_ok=True)
    images: list[list[Any]] = []
    heads: list[list[Any]] = []
    if plan.kind == "fields":
        rng = _stream(plan.seed, 3, patient, slide, task.number)
        share = plan.fractions[patient]
        field, placed = render_field(labels, share, style, rng, size=plan.size, scale=plan.scale)
        name = f"field-{task.number:04d}.{plan.extension}"
        _save(folder / name, field, style.quality)
        images.append(["/".join([*ids, name]), *ids])
        heads += [["/".join([*ids, name]), *_head_row(head)] for head in placed]
    else:
        for index, label in zip(range(task.first, task.last), labels, strict=True):
            rng = _stream(plan.seed, 4, patient, index)
            crop, head = render_crop(label, style, rng, size=plan.size[0])
            name = f"crop-{index + 1:06d}.png"
            _save(folder / name, crop, style.quality)
            images.append(["/".join([*ids, name]), label, *ids])
            heads.append(["/".join([*ids, name]), *_head_row(head)])
    return images, heads


def _head_row(head: Placed) -> list[Any]:
    """A head's columns of ``heads.csv`` after the image: geometry, label, latent features."""
    geometry = (head.x, head.y, head.length, head.width, head.angle)
    features = [f"{value:.4f}" for value in head.sperm.features]
    return [*(f"{value:.2f}" for value in geometry), head.sperm.label, *features]


def _save(path: Path, image: Image, quality: int) -> None:
    """Writes an image; PNG fast rather than small, JPEG at the slide's quality."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if path.suffix == ".jpg" else _FAST_PNG
    stored = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1]
    path.write_bytes(stored.tobytes())


_FAST_PNG = [
    *(cv2.IMWRITE_PNG_COMPRESSION, 1),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
]
