"""A checkpoint as one self-contained program that runs without this package.

``torch.export`` rather than ONNX: it needs no further package, keeps every operator of these
networks as it is, and is what AOTInductor and ExecuTorch compile from. The program takes uint8
crops and gives probabilities, so that colour, normalisation and softmax cannot be got wrong
outside.
"""

from __future__ import annotations

import dataclasses
import io
import json
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fertiray import checkpoint, sealed, storage
from fertiray.models.preprocess import Normalise, Preprocessing

PARITY = 1e-5  # largest difference of a probability that an export may show


class CropsToProbabilities(nn.Module):
    """Normalisation, network and softmax in one module.

    Args:
        model: the network, in evaluation mode.
        preprocessing: its own.
    """

    def __init__(self, model: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.normalise = Normalise(preprocessing)
        self.model = model

    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        """N x H x W x 3 uint8 RGB to N x K float32 ``probabilities``, or one such by task."""
        logits = self.model(self.normalise(crops))
        by_name = logits if isinstance(logits, dict) else {"probabilities": logits}
        return {name: values.float().softmax(1) for name, values in by_name.items()}


def export(checkpoint_folder: str, out: str) -> dict[str, Any]:
    """Writes a checkpoint as a ``torch.export`` program and measures that it says the same.

    The file is loaded again from its bytes and run on seeded random crops, in two batch sizes that
    the export has not seen. Load it with ``torch.export.load(out).module()``; the checkpoint's
    ``meta.json`` is inside (``extra_files``).

    Args:
        checkpoint_folder: local path or ``s3://`` URI.
        out: file to write, usually ``*.pt2``, local or ``s3://``.

    Returns:
        ``path``, ``bytes``, ``format``, ``outputs`` (names), ``n`` (crops compared) and
        ``max_abs_dp``, the largest difference of a probability.

    Raises:
        InputError: the checkpoint cannot be loaded.
        RuntimeError: the program's probabilities are not the checkpoint's; nothing is written.
    """
    model, meta = checkpoint.load(checkpoint_folder)
    size = meta.preprocessing.size
    program = CropsToProbabilities(model, meta.preprocessing).eval()
    generator = np.random.default_rng(0)
    batches = [
        torch.from_numpy(generator.integers(0, 256, (n, size, size, 3), dtype=np.uint8))
        for n in (2, 1, 5)
    ]
    with torch.no_grad():
        exported = torch.export.export(
            program, (batches[0],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
        )
    buffer = io.BytesIO()
    description = json.dumps(dataclasses.asdict(meta))
    torch.export.save(exported, buffer, extra_files={sealed.META: description})
    data = buffer.getvalue()
    again = torch.export.load(io.BytesIO(data)).module()
    differences, names = [], []
    with torch.inference_mode():
        for batch in batches:
            expected, found = program(batch), again(batch)
            names = list(expected)
            differences += [float((found[name] - expected[name]).abs().max()) for name in names]
    if not max(differences) <= PARITY:
        raise RuntimeError(
            f"{checkpoint_folder}: the exported program differs from the network by up to"
            f" {max(differences):.2g} in probability; at most {PARITY:g} is allowed"
        )
    storage.write_bytes(out, data)
    return {
        "path": out,
        "bytes": len(data),
        "format": f"torch.export, torch {torch.__version__}",
        "outputs": names,
        "n": sum(len(batch) for batch in batches),
        "max_abs_dp": max(differences),
    }
