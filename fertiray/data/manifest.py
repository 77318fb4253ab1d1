"""``store.json``: what a crop store is, how it was made and what is in it.

Making a store can be interrupted and taken up again. The settings written here before the first
part see to it that only a run with the same input and the same settings takes it up.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import fertiray
from fertiray import storage
from fertiray.data import crops, duplicates
from fertiray.errors import InputError

NAME = "store.json"
KIND = "fertiray crop store"
VERSION = 1
EXAMPLES = 10


def begin(
    location: str, made_by: str, settings: Mapping[str, Any], *, resume: bool
) -> dict[str, Any]:
    """Claims a folder for a store that is about to be made, or taken up again.

    Args:
        location: the store.
        made_by: the command.
        settings: everything that decides what will be in the store; JSON values.
        resume: take up an unfinished store; otherwise one that is there is deleted first.

    Returns:
        The record as it stands: what an earlier run noted is there again.

    Raises:
        InputError: the folder holds something else, or a store made from other input or with other
            settings.
    """
    own = {
        "kind": KIND,
        "version": VERSION,
        "made_by": made_by,
        "settings": {**settings, "fertiray": fertiray.__version__},
    }
    found = read(location)
    if found is None and crops.parts(location):
        raise InputError(
            f"{location}: holds part-*.parquet but no {NAME}, so how they were made is unknown; "
            "give another folder"
        )
    if found is not None and resume:
        _check_same(location, found, own)
        return found
    if found is not None:
        for part in crops.parts(location):
            storage.remove(storage.join(location, part))
        for folder in ("rejects", "duplicates"):
            storage.remove(storage.join(location, folder))
    write(location, own)
    return own


def read(location: str) -> dict[str, Any] | None:
    """The record of a store; None where there is none.

    Raises:
        InputError: the file there is not one.
    """
    place = storage.join(location, NAME)
    if not storage.exists(place):
        return None
    try:
        found = json.loads(storage.read_bytes(place))
    except (ValueError, RecursionError):
        found = None
    if (
        not isinstance(found, dict)
        or found.get("kind") != KIND
        or not isinstance(found.get("settings"), dict)
    ):
        raise InputError(f"{place}: not the record of a crop store; give another folder")
    return found


def write(location: str, record: Mapping[str, Any]) -> None:
    """Writes the record."""
    text = json.dumps(record, indent=2, ensure_ascii=False)
    storage.write_bytes(storage.join(location, NAME), text.encode())


def summarise(location: str) -> dict[str, Any]:
    """Counts what is in a store, from the store itself, so that it holds for a resumed one too.

    Writes the duplicates file where there are any.

    Returns:
        crops: rows; patients: distinct patient_ids; labelled: rows with a label; rejected: reject
        rows; rejected_by_reason; rejects: their folder or None; duplicates: crops whose pixels
        occurred before; duplicates_across_patients: how many of these under another patient;
        duplicate_examples: a few of them, ids of both; duplicates_file: all of them, or None.

    Raises:
        InputError: two crops share an id.
    """
    patients: set[str] = set()
    rows = labelled = 0
    for group in crops.row_groups(location):
        for batch in crops.iter_batches(location, group, ["patient_id", "label"]):
            patients.update(batch.column("patient_id").unique().to_pylist())
            rows += len(batch)
            labelled += len(batch) - batch.column("label").null_count
    if repeated := duplicates.repeated_ids(location):
        raise InputError(f"{location}: several crops have the crop_id {repeated[0]}")
    reasons: Counter[str] = Counter()
    for table in crops.read_rejects(location):
        reasons.update(table.column("reason").to_pylist())
    return {
        "crops": rows,
        "rejected": reasons.total(),
        "rejected_by_reason": dict(sorted(reasons.items())),
        "rejects": storage.join(location, "rejects") if reasons else None,
        "patients": len(patients),
        "labelled": labelled,
        **_duplicates(location),
    }


def _duplicates(location: str) -> dict[str, Any]:
    table = duplicates.repeated_pixels(location)
    pairs: list[dict[str, str]] = []
    count = across = 0
    first: dict[str, str] = {"content": ""}
    for row in table.to_pylist():
        if row["content"] != first["content"]:
            first = row
            continue
        count += 1
        across += row["patient_id"] != first["patient_id"]
        if len(pairs) < EXAMPLES:
            pairs.append({"crop_id": row["crop_id"], "same_as": first["crop_id"]})
    if count:
        crops.write_duplicates(location, table)
    return {
        "duplicates": count,
        "duplicates_across_patients": across,
        "duplicate_examples": pairs,
        "duplicates_file": storage.join(location, "duplicates") if count else None,
    }


def _check_same(location: str, found: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    old = {**found["settings"], "made_by": found.get("made_by"), "version": found.get("version")}
    new = {**own["settings"], "made_by": own["made_by"], "version": own["version"]}
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            raise InputError(
                f"{location}: made with {name} = {old.get(name)!r}, asked for {new.get(name)!r}; "
                "give another folder, or delete this one"
            )
