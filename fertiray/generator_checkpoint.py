"""A trained generator as a folder: ``generator.safetensors`` and ``meta.json``; nothing pickled.

It is to images what :mod:`fertiray.checkpoint` is to classes: the folder holds all that translating
needs, on local disk or on S3, and a truncated, altered or mismatched file is noticed and named.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from fertiray import config, storage
from fertiray.errors import InputError
from fertiray.models.preprocess import Preprocessing
from fertiray.models.registry import build_model

WEIGHTS, META, SAMPLES = "generator.safetensors", "meta.json", "samples.png"
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
    state = {name: value.detach().cpu() for name, value in generator.state_dict().items()}
    _require_finite(state, folder)
    meta = dataclasses.replace(meta, weights_sha256="")
    copy = json.dumps(dataclasses.asdict(meta), allow_nan=False)
    weights = save_tensors(state, metadata={META: copy})
    meta = dataclasses.replace(meta, weights_sha256=hashlib.sha256(weights).hexdigest())
    storage.write_bytes(storage.join(folder, WEIGHTS), weights)
    text = json.dumps(dataclasses.asdict(meta), indent=2, allow_nan=False)
    storage.write_bytes(storage.join(folder, META), text.encode())
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
    description = _description(place)
    meta = config.load(GeneratorMeta, description, place)
    weights = storage.read_bytes(where)
    found = hashlib.sha256(weights).hexdigest()
    if found != meta.weights_sha256:
        raise InputError(
            f"{where}: SHA-256 {found[:12]}... is not the {meta.weights_sha256[:12]}... that"
            f" {META} names: truncated or altered; copy the folder again"
        )
    try:
        state = load_tensors(weights)
        header = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
        saved = json.loads(header["__metadata__"][META])
    except (SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{where}: not the weights of a generator ({error})") from error
    for key, value in saved.items():
        if key != "weights_sha256" and description.get(key) != value:
            raise InputError(
                f"{place}: {key} was altered after it was saved; copy the folder again"
            )
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
    _require_finite(state, where)
    return generator.eval(), meta


def _description(place: str) -> dict[str, Any]:
    try:
        values = json.loads(storage.read_bytes(place))
    except ValueError as error:
        raise InputError(
            f"{place}: not readable as JSON ({error}); copy the folder again"
        ) from error
    if not isinstance(values, dict):
        raise InputError(f"{place}: must hold a JSON object; copy the folder again")
    return values


def _require_finite(state: dict[str, Tensor], where: str) -> None:
    for name, value in state.items():
        if not value.isfinite().all():
            raise InputError(
                f"{where}: {name} holds NaN or infinity: the training diverged; train again with a"
                " lower learning rate"
            )
