"""A trained generator as a folder: ``generator.safetensors`` and ``meta.json``; nothing pickled.

It is to images what :mod:`fertiray.checkpoint` is to classes: the folder holds all that translating
needs, on local disk or on S3, and a truncated, altered or mismatched file is noticed and named.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from fertiray import config, sealed, storage
from fertiray.errors import InputError
from fertiray.models.preprocess import Preprocessing
from fertiray.models.registry import build_model
from fertiray.sealed import META

WEIGHTS, SAMPLES = "generator.safetensors", "samples.png"
FORMAT = 1


@dataclass(frozen=True)
class GeneratorMeta:
    """What ``meta.json`` holds.

    Attributes:
        name: of the folder, for reports.
        paper: key of the paper whose protocol trained it.
        preprocessing: from image to generator input, and back.
        data_digest: identifies the training images of both looks.
        model: registered name of the network.
        args: the network's own arguments.
        metrics: what was measured after training, by name.
        history: the first and the last epoch's losses, and the number of epochs.
        config: the training configuration.
        weights_sha256: of ``generator.safetensors``.
        provenance: versions, commit and date.
        format: version of this layout.
    """

    name: str
    paper: str
    preprocessing: Preprocessing
    data_digest: str
    model: Literal["cyclegan_generator"] = "cyclegan_generator"
    args: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    history: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    weights_sha256: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"format {self.format} is not {FORMAT}: written by another version")


def save(folder: str, generator: nn.Module, meta: GeneratorMeta) -> GeneratorMeta:
    """Writes the folder; ``meta.json`` comes last, so a folder with it is whole.

    Args:
        folder: local path or ``s3://`` URI.
        generator: the trained network.
        meta: everything else; ``weights_sha256`` is filled in.

    Returns:
        The description as written.

    Raises:
        InputError: a weight is not a finite number.
    """
    meta = sealed.seal(storage.join(folder, WEIGHTS), generator.state_dict(), meta)
    sealed.write_description(storage.join(folder, META), dataclasses.asdict(meta))
    return meta


def load(folder: str) -> tuple[nn.Module, GeneratorMeta]:
    """The generator in evaluation mode on the CPU, and its description.

    Raises:
        InputError: no generator there, or a truncated, altered or mismatched file; the message
            says what differs.
    """
    place, where = storage.join(folder, META), storage.join(folder, WEIGHTS)
    for file in (place, where):
        if not storage.exists(file):
            raise InputError(
                f"{folder}: no generator here ({storage.relative(file, folder)} is missing); train"
                " one with `fertiray train zona_vgg13 --model cyclegan`"
            )
    description = sealed.read_description(place)
    meta = config.load(GeneratorMeta, description, place)
    state, weights = sealed.read_weights(where, description)
    sealed.require_unaltered(description, weights, folder)
    with torch.random.fork_rng(devices=[]):  # the initial weights, replaced at once
        generator = build_model(
            meta.model,
            0,
            in_channels=meta.preprocessing.channels,
            size=meta.preprocessing.size,
            args=meta.args,
        )
    try:
        generator.load_state_dict(state)
    except RuntimeError as error:
        said = " ".join(str(error).split())[:200]
        raise InputError(f"{where}: does not fit the architecture in {META}: {said}") from error
    sealed.require_finite(state, where)
    return generator.eval(), meta
