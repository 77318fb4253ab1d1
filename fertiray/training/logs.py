"""Each epoch's line, for a person and for TensorBoard."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from fertiray import console, storage


class EpochLog:
    """Prints each epoch's line and writes it as TensorBoard scalars.

    Args:
        epochs: how many there will be.
        folder: where TensorBoard's event file goes, local or ``s3://``; None writes none.
        name: printed before each line, such as the fold.
    """

    def __init__(self, epochs: int, folder: str | None = None, name: str = "") -> None:
        self.epochs, self.name, self.folder = epochs, name, folder
        self._local: tempfile.TemporaryDirectory[str] | None = None
        self._writer: SummaryWriter | None = None

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
        if self.folder is not None:
            self._write(epoch, line, self.folder)

    def _write(self, epoch: int, line: dict[str, Any], folder: str) -> None:
        if self._writer is None:
            if storage.is_remote(folder):
                self._local = tempfile.TemporaryDirectory(prefix="fertiray-events-")
            self._writer = SummaryWriter(self._local.name if self._local else folder)
        for key, value in line.items():
            if key != "epoch":
                self._writer.add_scalar(key.replace("_", "/", 1), value, epoch)
        self._writer.flush()
        if self._local is not None:
            for file in Path(self._local.name).iterdir():
                storage.write_bytes(storage.join(folder, file.name), file.read_bytes())
