"""The checkpoints that are served: named, versioned, and exchanged while the service runs.

``models.json`` lists checkpoint folders. A served model's id is ``NAME@VERSION``; the version is
the beginning of the digest of its description, weights included, so the same id is always the same
network. Requests may name a model with or without its version; jobs keep the ids they were accepted
with.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fertiray import checkpoint, config, storage
from fertiray.errors import InputError
from fertiray.scoring.scorer import unique_names
from fertiray.scoring.verdicts import CLINICAL_THRESHOLD, ModelInfo

DIGITS = 12


@dataclass(frozen=True)
class Served:
    """A checkpoint that is served.

    Attributes:
        id: ``NAME@VERSION``.
        folder: where it lies.
        meta: its description.
    """

    id: str
    folder: str
    meta: checkpoint.Meta

    @property
    def patients(self) -> bool:
        """Whether its scores add up to a patient's result, so that jobs may use it."""
        return self.meta.task in CLINICAL_THRESHOLD

    def described(self) -> dict[str, Any]:
        """What clients see of it; no places of this machine."""
        meta = self.meta
        return {
            "id": self.id,
            "name": meta.name,
            "version": self.id.rpartition("@")[2],
            "task": meta.task,
            "network": meta.model,
            "classes": list(meta.classes),
            "positive": meta.positive,
            "input_size": meta.preprocessing.size,
            "operating_threshold": meta.operating.threshold,
            "sensitivity": meta.operating.sensitivity,
            "specificity": meta.operating.specificity,
            "clinical_threshold": CLINICAL_THRESHOLD.get(meta.task),
            "jobs": self.patients,
        }


def served(folder: str) -> Served:
    """Reads a checkpoint's description and names its version.

    Raises:
        InputError: no usable checkpoint there, or one whose network has several tasks.
    """
    meta = checkpoint.read_meta(folder)
    if meta.tasks:
        raise InputError(f"{folder}: a network of several tasks cannot be served; train one task")
    found = Served(f"{meta.name}@{config.digest(meta)[:DIGITS]}", folder, meta)
    if found.patients:
        ModelInfo.from_meta(asdict(meta))  # a classifier no better than chance is refused here
    return found


def write(file: Path, folders: Sequence[str]) -> list[Served]:
    """Says which checkpoints are served; a running service takes them up by itself.

    Args:
        file: ``models.json``.
        folders: checkpoint folders, the preferred one first; their names must differ.

    Raises:
        InputError: a folder is no usable checkpoint, or two have one name.
    """
    found = [served(folder) for folder in folders]
    unique_names([model.meta for model in found])
    text = json.dumps({"checkpoints": list(folders)}, indent=2)
    storage.write_bytes(str(file), text.encode())
    return found


def read(file: Path) -> list[Served]:
    """The checkpoints that are to be served now.

    Raises:
        InputError: the file or a checkpoint is unusable.
    """
    try:
        folders = json.loads(storage.read_bytes(str(file)))["checkpoints"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file}: not a list of checkpoints; write it by `fertiray serve`"
        ) from error
    return [served(folder) for folder in folders]


def chosen(models: Sequence[Served], names: Sequence[str] | None) -> list[Served] | None:
    """The models that a request names, by name or by id; all of them where it names none.

    Returns:
        The models without repetition, or None where one is unknown.
    """
    if not names:
        return list(models)
    by_name = {key: model for model in models for key in (model.id, model.meta.name)}
    found = [by_name.get(name) for name in dict.fromkeys(names)]
    unique = {model.id: model for model in found if model is not None}
    return list(unique.values()) if None not in found else None
