"""Where figures come from: folders of cross-validations, checkpoints with images, event files."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from tensorboardX.proto.event_pb2 import Event

from fertiray import parquet, storage
from fertiray.checkpoint import Meta
from fertiray.data.labelled import UNLABELLED, LabelledCrops, load_labelled
from fertiray.data.splits import load_split
from fertiray.models.predict import call

Line = dict[str, float]


@dataclass(frozen=True)
class Graded:
    """Images with their true classes and probabilities, in one task.

    Attributes:
        task: its name.
        classes: names of the K classes.
        positive: the positive class; None for a task without one.
        threshold: that decides between two classes; None where the most probable one is called.
        probabilities: N x K floats.
        labels: N int64 class indices.
        groups: N int64; what the bootstrap draws together.
        folds: N int64, the fold in which an image was tested; all alike without folds.
        rows: N int64, place of each image among all that were read, graded or not.
    """

    task: str
    classes: tuple[str, ...]
    positive: str | None
    threshold: float | None
    probabilities: NDArray[np.float64]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    folds: NDArray[np.int64]
    rows: NDArray[np.int64]

    @property
    def called(self) -> NDArray[np.int64]:
        """N called class indices: by the threshold, or else the most probable class."""
        if self.threshold is None or self.positive is None:
            return np.asarray(self.probabilities.argmax(1), np.int64)
        number = self.classes.index(self.positive)
        return call(self.probabilities.astype(np.float32), number, self.threshold)


def read_crossval(folder: str) -> tuple[dict[str, Any], list[Graded]]:
    """The result of a cross-validation and the predictions behind it, by task.

    Args:
        folder: that ``fertiray crossval --out`` wrote, local or ``s3://``.

    Raises:
        InputError: a file of it is missing.
    """
    result = json.loads(storage.read_bytes(storage.join(folder, "crossval.json")))
    tables = [
        parquet.read(storage.join(folder, f"fold-{line['fold']}.parquet")).with_columns(
            fold=pl.lit(line["fold"])
        )
        for line in result["folds"]
    ]
    table = pl.concat(tables).with_row_index("row")
    tasks: dict[str, Any] = result.get("tasks") or {result["task"]: result}
    return result, [
        _graded(table, task, part["pooled"], f"_{task}" if len(tasks) > 1 else "")
        for task, part in tasks.items()
    ]


def _graded(table: pl.DataFrame, task: str, pooled: dict[str, Any], end: str) -> Graded:
    own = table.filter(pl.col(f"truth{end}").is_not_null())
    classes = tuple(pooled["classes"])
    # Images of unknown patients are drawn one by one.
    who = pl.coalesce(pl.lit("patient ") + pl.col("patient_id"), pl.lit("image ") + pl.col("name"))
    return Graded(
        task,
        classes,
        pooled["positive"],
        pooled["threshold"],
        own.select([f"p{end}_{name}" for name in classes]).to_numpy(),
        np.array([classes.index(name) for name in own[f"truth{end}"]], np.int64),
        np.unique(own.select(who).to_series().to_numpy(), return_inverse=True)[1],
        own["fold"].to_numpy(),
        own["row"].to_numpy().astype(np.int64),
    )


def crossval_histories(result: dict[str, Any]) -> tuple[list[list[Line]], list[int]]:
    """The epoch lines of every training of a cross-validation, and the epochs that were kept.

    Args:
        result: whose ``folds`` carry ``history`` (by member, its epoch lines) and ``epochs``; those
            of earlier versions have no history.

    Returns:
        Both by fold and member; empty without history.
    """
    pairs = [
        pair
        for line in result["folds"]
        for pair in zip(line.get("history", ()), line["epochs"], strict=False)
    ]
    return [history for history, _ in pairs], [epoch for _, epoch in pairs]


def held_out(folder: str, meta: Meta, data: str) -> tuple[str, LabelledCrops]:
    """Labelled crops, prepared as a checkpoint's training images were, that it has not learned.

    Args:
        folder: the checkpoint's.
        meta: its description.
        data: labelled folder or labelled crop store.

    Returns:
        What they are and the crops: of the training data the test part, or the validation part
        where none was held out for testing; of other data all.

    Raises:
        InputError: data that the checkpoint cannot be used on.
    """
    tasks = dict(meta.tasks) or {meta.config.get("task") or "class": meta.classes}
    frame = meta.config.get("frame", "as_is")
    crops = load_labelled(data, meta.preprocessing, tasks, frame=frame)
    place = storage.join(folder, "split.json")
    if crops.digest != meta.data_digest or not storage.exists(place):
        return "images", crops
    parts = load_split(place, crops)
    if len(parts.test):
        return "test images", crops.take(parts.test)
    return "validation images, which chose the epoch", crops.take(parts.validation)


def graded(
    crops: LabelledCrops, meta: Meta, probabilities: Mapping[str, NDArray[np.floating[Any]]]
) -> list[Graded]:
    """What a checkpoint says of labelled crops, for each task that they are graded in.

    Args:
        crops: N crops.
        meta: of the checkpoint.
        probabilities: N x K_t by task of the network, in its order.
    """
    tasks = dict(meta.tasks) or {meta.config.get("task") or "class": meta.classes}
    found: list[Graded] = []
    for (task, classes), own in zip(tasks.items(), probabilities.values(), strict=True):
        if task not in crops.tasks:
            continue
        labels = crops.targets[:, list(crops.tasks).index(task)]
        known = labels != UNLABELLED
        if not known.any():
            continue
        place = np.array([classes.index(name) for name in crops.tasks[task]])
        first = classes == meta.classes and not found
        two = first and len(classes) == 2
        found.append(
            Graded(
                task,
                classes,
                meta.positive if first else None,
                meta.operating.threshold if two else None,
                own[known].astype(np.float64),
                place[labels[known]],
                crops.groups[known],
                np.zeros(int(known.sum()), np.int64),
                np.flatnonzero(known),
            )
        )
    return found


def read_events(folder: str) -> list[Line]:
    """The epoch lines that a training left as TensorBoard scalars.

    Args:
        folder: of the event files, ``tensorboard`` in a checkpoint; local or ``s3://``.

    Returns:
        One line an epoch, with the names of :class:`fertiray.training.fit.Fitted`; of an epoch that
        was done twice the later one. Empty where there are none.
    """
    lines: dict[int, Line] = {}
    for place in storage.list_files(folder):
        for event in _events(storage.read_bytes(place)):
            for value in event.summary.value:
                line = lines.setdefault(event.step, {"epoch": event.step})
                line[value.tag.replace("/", "_", 1)] = value.simple_value
    return [lines[epoch] for epoch in sorted(lines)]


def _events(content: bytes) -> Iterator[Any]:
    """The records of TensorFlow's format: length, its checksum, data, their checksum."""
    start = 0
    while start + 12 <= len(content):
        (length,) = struct.unpack_from("<Q", content, start)
        start += 12
        if start + length > len(content):
            return  # the training was killed as it wrote
        yield Event.FromString(content[start : start + length])
        start += length + 4
