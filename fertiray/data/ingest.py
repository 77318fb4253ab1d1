"""Folders of single-head images into the crop store, bytes as they are.

Every file is decoded once, to learn whether it can be. What cannot is not thrown away: its bytes
become a row like any other (``width`` and ``height`` null), counted as rejected here and listed in
``rejects/`` with the reason, and scoring, which decodes again, rejects it again with the same
reason. So the books of scoring start from everything that the laboratory delivered. Only what
cannot be stored at all (too many bytes, unreadable, of no known patient) is in ``rejects/`` alone.

Files are taken in sorted order, in runs of at most 4096; each run becomes one part. A run whose
part is there is not done again, so an interrupted ingest loses at most the run in hand, and its
result is the same as that of an undisturbed one.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fertiray import storage
from fertiray.data import crops, manifest
from fertiray.data.folders import Source, check_apart, chunks, inventory, sources
from fertiray.data.images import CROP, ImageError, decode, image_digest
from fertiray.errors import InputError, StorageError

Row = dict[str, Any]


def ingest(
    folder: str,
    store: str,
    *,
    group_by: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    resume: bool = True,
) -> dict[str, Any]:
    """Writes the images of a folder into a crop store.

    Args:
        folder: tree ``patient/slide/image``, ``patient/image`` or flat (``folders``); local or
            ``s3://``.
        store: folder of the store; local or ``s3://``.
        group_by: regular expression on the file name that gives the patient.
        progress: called with the files done and the files in all.
        resume: take up an interrupted ingest of the same folder; otherwise start afresh.

    Returns:
        What ``manifest.summarise`` counts (crops, rejected, patients, duplicates, ...) with files,
        store and seconds. ``crops`` counts rows, undecodable ones included.

    Raises:
        InputError: no folder, no files, a useless ``group_by``, or a store made otherwise.
    """
    started = time.perf_counter()
    check_apart(folder, store)
    found = inventory(folder, group_by)
    settings = {"files": found.files, "source_digest": found.digest, "group_by": group_by}
    record = manifest.begin(store, "ingest", settings, resume=resume)
    there = set(crops.parts(store))
    done = 0
    # Threads: decoding runs outside Python's lock, and S3 answers slowly.
    threads = 16 if storage.is_remote(folder) else min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        runs = chunks(sources(folder, group_by), crops.PART_ROWS, crops.PART_BYTES)
        for index, run in enumerate(runs):
            if crops.part_name(index) not in there:
                _write_run(store, index, run, pool)
            done += len(run)
            if progress:
                progress(done, found.files)
    counts = manifest.summarise(store)
    manifest.write(store, {**record, "counts": {"files": found.files, **counts}})
    return {
        "store": store,
        "files": found.files,
        **counts,
        "seconds": round(time.perf_counter() - started, 3),
    }


def _write_run(store: str, index: int, run: list[Source], pool: ThreadPoolExecutor) -> None:
    part = crops.PartWriter(store, index)
    rejects = []
    for row, reject in pool.map(_take, run):
        if row is not None:
            part.add(row)
        if reject is not None:
            rejects.append(reject)
    crops.write_rejects(store, index, rejects)
    part.close()


def _take(source: Source) -> tuple[Row | None, Row | None]:
    """A file's row for the store, and its reject row; either may be None."""
    known = {"patient_id": source.patient_id, "slide_id": source.slide_id}
    reject = {**known, "field": source.path}
    if source.problem:
        return None, {**reject, "stage": "read", "reason": "unreadable", "error": source.problem}
    if source.size > CROP.max_bytes:
        said = f"{source.size} bytes, limit {CROP.max_bytes}"
        return None, {**reject, "stage": "read", "reason": "too-many-bytes", "error": said}
    try:
        data = storage.read_bytes(source.location)
    except StorageError:  # the next file would fail too
        raise
    except (OSError, InputError) as error:
        said = f"cannot be read: {error}"
        return None, {**reject, "stage": "read", "reason": "unreadable", "error": said}
    place = (source.patient_id or "", source.slide_id, source.path)
    try:
        image = decode(data, name=source.path, limits=CROP)
    except ImageError as error:
        content = hashlib.sha256(data).hexdigest()
        own = {"crop_id": crops.crop_id(content, *place)}
        failed = {"stage": "decode", "reason": error.reason, "error": str(error)}
        return {**known, **own, "image": data}, {**reject, **own, **failed}
    height, width = image.shape[:2]
    own = {"crop_id": crops.crop_id(image_digest(image), *place)}
    return {**known, **own, "image": data, "width": width, "height": height}, None
