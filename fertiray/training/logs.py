"""Each epoch's line, for a person, for TensorBoard and for the metrics."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.summary import scalar

from fertiray import console, parquet, storage, telemetry, work
from fertiray.errors import StorageError

HISTORY = "history.parquet"


class EpochLog:
    """Prints each epoch's line and writes it as TensorBoard scalars and into a table.

    Args:
        epochs: how many there will be.
        folder: where TensorBoard's event file and ``history.parquet`` go, local or ``s3://``;
            None writes none.
        name: printed before each line, such as the fold.
    """

    def __init__(self, epochs: int, folder: str | None = None, name: str = "") -> None:
        self.epochs, self.name, self.folder = epochs, name, folder
        self._local: tempfile.TemporaryDirectory[str] | None = None
        self._writer: EventsWriter | None = None

    def __call__(self, line: dict[str, Any]) -> None:
        """Takes one epoch's metrics: ``epoch``, ``training_loss`` and what else is there."""
        epoch = int(line["epoch"])
        text = f"{self.name}epoch {epoch}/{self.epochs}: loss {line['training_loss']:.4f}"
        if "validation_loss" in line:
            text += (
                f", validation loss {line['validation_loss']:.4f},"
                f" accuracy {line['validation_accuracy']:.3f},"
                f" macro F1 {line['validation_macro_f1']:.3f}"
            )
        text += f", {line['seconds']:.1f} s"
        console.notices.print(text, markup=False, soft_wrap=True)
        telemetry.gauge("training_epoch", epoch)
        if "validation_loss" in line:
            telemetry.gauge("training_loss", line["validation_loss"], part="validation")
        work.progress("train")
        if self.folder is not None:
            self._write(epoch, line, self.folder)
            _add_row(storage.join(self.folder, HISTORY), line)

    def _write(self, epoch: int, line: dict[str, Any], folder: str) -> None:
        try:
            self._add_events(epoch, line, folder)
        except OSError as error:
            raise StorageError(
                f"{folder}: cannot be written ({error.strerror}); free space there or give another"
                " place, and run the same command again"
            ) from error
        if self._local is not None:
            for file in Path(self._local.name).iterdir():
                storage.write_bytes(storage.join(folder, file.name), file.read_bytes())

    def _add_events(self, epoch: int, line: dict[str, Any], folder: str) -> None:
        if self._writer is None:
            if storage.is_remote(folder):
                self._local = tempfile.TemporaryDirectory(prefix="fertiray-events-")
            place = Path(self._local.name if self._local else folder)
            place.mkdir(parents=True, exist_ok=True)
            # Not SummaryWriter: a full disk ends its thread, and the next events wait for ever.
            self._writer = EventsWriter(str(place / "events"))
        now = time.time()
        for key, value in line.items():
            if key != "epoch":
                named = scalar(key.replace("_", "/", 1), value)
                self._writer.write_event(Event(wall_time=now, step=epoch, summary=named))
        self._writer.flush()


def _add_row(place: str, line: dict[str, Any]) -> None:
    """Adds an epoch to a table; epochs after it are of an earlier training."""
    table = pl.DataFrame([line])
    if storage.exists(place):
        before = parquet.read(place).filter(pl.col("epoch") < line["epoch"])
        table = pl.concat([before, table], how="diagonal_relaxed")
    parquet.write(place, table)
