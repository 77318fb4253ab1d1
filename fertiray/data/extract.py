"""Smear fields into the crop store: segmentation, alignment, one row a head.

The scale of the microscope (median head length) is estimated first, from a fixed sample of the
fields, so that every crop of a cohort shows the same window. Then runs of 32 fields go to the
workers; each run becomes one part. A run whose part is there is not done again, so work that is
stopped at any moment loses the runs in hand only, and resumed it ends as if never stopped. The
number of workers changes nothing in the store.

Candidates that are not scored (overlapping, cut by the border, out of focus, ...) and fields that
cannot be read are listed in ``rejects/`` with a named reason.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, Literal

import cv2
import numpy as np

from fertiray import storage
from fertiray.data import crops, head_labels, manifest
from fertiray.data.alignment import CROP_SIZE, WINDOW_HEADS, align_crop
from fertiray.data.folders import ONLY_SLIDE, Source, check_apart, chunks, inventory, sources
from fertiray.data.head_labels import LabelledPoint
from fertiray.data.images import DEFAULT, ImageError, Pixels, decode, encode_png, image_digest
from fertiray.data.segmentation import Head, estimate_head_length, segment_field
from fertiray.errors import InputError, StorageError
from fertiray.processes import Workers

FIELDS_PER_PART = 32
CALIBRATION_FIELDS = 16

Labels = Literal["folder", "heads"]
Row = dict[str, Any]


@dataclass(frozen=True)
class _Run:
    """What a worker needs to make one part."""

    store: str
    index: int
    fields: list[Source]
    head_length: float | None
    single: bool
    points: dict[str, list[LabelledPoint]]
    by_folder: bool


def segment_store(
    fields: str,
    store: str,
    *,
    group_by: str | None = None,
    workers: int = 1,
    single: bool = False,
    labels: Labels | None = None,
    progress: Callable[[int, int], None] | None = None,
    resume: bool = True,
    head_length: float | None = None,
) -> dict[str, Any]:
    """Segments fields and writes their heads as aligned crops into a store.

    Args:
        fields: tree ``patient/slide/field``, ``patient/field`` or flat (``folders``), or class
            folders with ``labels="folder"``; local or ``s3://``.
        store: folder of the store; local or ``s3://``.
        group_by: regular expression on the file name that gives the patient.
        workers: processes.
        single: every image shows one sperm (a data set of cut-out heads): the head nearest its
            middle is taken.
        labels: ``"heads"`` labels the head nearest to each row of ``heads.csv`` at the root of the
            fields, within half a head length; ``"folder"`` takes the first folder as the class
            (a leading ``NN_`` is dropped) and every image as a patient of its own, ``Class-stem``,
            since such sets do not say who the patient is.
        progress: called with the fields done and the fields in all.
        resume: take up an interrupted run on the same fields; otherwise start afresh.
        head_length: median head length in px of the field; estimated where None.

    Returns:
        fields, exactly_one (fields with exactly one crop), what ``manifest.summarise`` counts
        (crops, rejected, rejected_by_reason, patients, ...), head_length, store and seconds.
        ``rejected`` counts candidates and unreadable fields.

    Raises:
        InputError: no folder, no files, a useless ``group_by``, no labels where they are asked for,
            or a store made otherwise.
    """
    started = time.perf_counter()
    if head_length is not None and not 1 <= head_length <= DEFAULT.max_side:
        raise InputError(
            f"--head-length {head_length:g}: give pixels, from 1 to {DEFAULT.max_side}"
        )
    check_apart(fields, store)
    found = inventory(fields, group_by)
    points = head_labels.read_heads(fields) if labels == "heads" else {}
    if labels == "folder":
        head_labels.check_class_folders(source.path for source in sources(fields))
    settings = {
        "files": found.files,
        "source_digest": found.digest,
        "group_by": group_by,
        "single": single,
        "labels": labels,
        "labels_digest": hashlib.sha256(repr(points).encode()).hexdigest()[:16],
        "head_length": head_length,
        "window_heads": WINDOW_HEADS,
        "crop_size": CROP_SIZE,
    }
    record = manifest.begin(store, "segment", settings, resume=resume)
    if "head_length" not in record:
        length = head_length or _calibrate(fields, group_by, found.files)
        record = {**record, "head_length": length}
        manifest.write(store, record)
    there = set(crops.parts(store))
    runs = (
        _Run(
            store,
            index,
            run,
            record["head_length"],
            single,
            {field.path: points[field.path] for field in run if field.path in points},
            labels == "folder",
        )
        for index, run in enumerate(chunks(sources(fields, group_by), FIELDS_PER_PART))
        if crops.part_name(index) not in there
    )
    done = min(len(there) * FIELDS_PER_PART, found.files)
    for fields_done in _work(runs, workers):
        done += fields_done
        if progress:
            progress(done, found.files)
    counts = {
        "fields": found.files,
        "exactly_one": _exactly_one(store),
        **manifest.summarise(store),
    }
    manifest.write(store, {**record, "counts": counts})
    return {
        "store": store,
        **counts,
        "head_length": record["head_length"],
        "seconds": round(time.perf_counter() - started, 3),
    }


def _calibrate(fields: str, group_by: str | None, files: int) -> float | None:
    """Head length in px from fields spread evenly over the cohort; None where they hold none."""
    chosen = {int(place) for place in np.linspace(0, files - 1, min(files, CALIBRATION_FIELDS))}

    def readable() -> Iterator[Pixels]:
        for index, source in enumerate(sources(fields, group_by)):
            if index in chosen:
                image, _ = _read(source)
                if image is not None:
                    yield image

    with _OneThread():
        return estimate_head_length(readable()) or None


def _work(runs: Iterator[_Run], workers: int) -> Iterator[int]:
    """Does the runs, a few ahead of the one that is waited for; yields each one's fields."""
    if workers == 1:
        with _OneThread():
            yield from map(_write_run, runs)
        return
    with Workers(workers, cv2.setNumThreads, 1) as pool:
        waiting: deque[Future[int]] = deque(
            pool.submit(_write_run, run) for run in islice(runs, 2 * workers)
        )
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(_write_run, run) for run in islice(runs, 1))


class _OneThread:
    """Keeps OpenCV to one thread, as in the workers: the same sums in the same order."""

    def __enter__(self) -> None:
        self.before = cv2.getNumThreads()
        cv2.setNumThreads(1)

    def __exit__(self, *_: object) -> None:
        cv2.setNumThreads(self.before)


def _write_run(run: _Run) -> int:
    part = crops.PartWriter(run.store, run.index)
    rejects: list[Row] = []
    for field in run.fields:
        rows, lost = _heads(field, run)
        for row in rows:
            part.add(row)
        rejects += lost
    crops.write_rejects(run.store, run.index, rejects)
    part.close()
    return len(run.fields)


def _read(field: Source) -> tuple[Pixels | None, Row]:
    """The field's pixels, or None and what to say about it in the reject row."""
    if field.problem:
        return None, {"stage": "read", "reason": "unreadable", "error": field.problem}
    try:
        data = storage.read_bytes(field.location)
    except StorageError:  # the next file would fail too
        raise
    except (OSError, InputError) as error:
        said = f"cannot be read: {error}"
        return None, {"stage": "read", "reason": "unreadable", "error": said}
    try:
        return decode(data, name=field.path), {}
    except ImageError as error:
        return None, {"stage": "decode", "reason": error.reason, "error": str(error)}


def _heads(field: Source, run: _Run) -> tuple[list[Row], list[Row]]:
    """Rows for the store and reject rows of one field."""
    label, patient = None, field.patient_id
    if run.by_folder:
        label = head_labels.folder_class(field.path)
        patient = f"{label}-{PurePosixPath(field.path).stem}"
    slide = ONLY_SLIDE if run.by_folder else field.slide_id
    known: Row = {"patient_id": patient, "slide_id": slide, "field": field.path}
    image, failed = _read(field)
    if image is None:
        return [], [{**known, **failed}]
    found = segment_field(image, run.head_length, single=run.single)
    marked = head_labels.match(
        [(head.cx, head.cy) for head in found.heads],
        run.points.get(field.path, []),
        found.head_length,
    )
    rows = [
        {**known, **_row(image, head, found.head_length, known), "label": label or own}
        for head, own in zip(found.heads, marked, strict=True)
    ]
    rejects = [
        {
            **known,
            "cx": head.cx,
            "cy": head.cy,
            "stage": "segment",
            "reason": head.reason,
            "error": f"{head.reason}: candidate of {head.major:.0f} x {head.minor:.0f} px",
        }
        for head in found.rejected
    ]
    if run.single and not rows and not rejects:
        said = "no-head: the image shows no stained head"
        rejects = [{**known, "stage": "segment", "reason": "no-head", "error": said}]
    return rows, rejects


def _row(image: Pixels, head: Head, head_length: float, known: Row) -> Row:
    crop = align_crop(image, head, head_length)
    place = (known["patient_id"], known["slide_id"], known["field"])
    position = f"{head.cx:.1f},{head.cy:.1f}"
    return {
        "crop_id": crops.crop_id(image_digest(crop), *place, position),
        "image": encode_png(crop),
        "width": crop.shape[1],
        "height": crop.shape[0],
        "cx": head.cx,
        "cy": head.cy,
        "major": head.major,
        "minor": head.minor,
        "angle": head.angle,
        "aspect": head.aspect,
        "contour": head.contour.ravel().tolist(),
    }


def _exactly_one(store: str) -> int:
    """Number of fields with exactly one crop; a field's crops are all in one part."""
    count = 0
    heads: Counter[str] = Counter()
    part = ""
    for group in crops.row_groups(store):
        if group.file != part:
            count += sum(number == 1 for number in heads.values())
            heads.clear()
            part = group.file
        for batch in crops.iter_batches(store, group, ["field"]):
            heads.update(batch.column("field").to_pylist())
    return count + sum(number == 1 for number in heads.values())
