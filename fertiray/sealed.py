"""Weights and their description as two files that know each other; nothing pickled.

``meta.json`` names the SHA-256 of the weights, and the weights carry a copy of the description in
their header, so a change of either file is noticed and named. It is a check against accidents and
hand edits, not a signature.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from fertiray import config, storage
from fertiray.errors import InputError

META = "meta.json"


class Described(Protocol):
    """A frozen dataclass of plain values that has a place for the weights' SHA-256."""

    @property
    def weights_sha256(self) -> str:
        """Of the file of weights; empty before it is written."""


M = TypeVar("M", bound=Described)


def seal(place: str, state: Mapping[str, Tensor], meta: M) -> M:
    """Writes the weights with a copy of their description; ``meta.json`` is the caller's to write.

    Args:
        place: file of the weights, local or ``s3://``.
        state: parameters and buffers by name.
        meta: the description; ``weights_sha256`` is filled in.

    Returns:
        The description as ``meta.json`` must hold it.

    Raises:
        InputError: a weight is not a finite number.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    require_finite(state, place)
    meta = dataclasses.replace(meta, weights_sha256="")  # type: ignore[type-var]
    copy = json.dumps(dataclasses.asdict(meta), allow_nan=False)  # type: ignore[call-overload]
    weights = save_tensors(state, metadata={META: copy})
    storage.write_bytes(place, weights)
    digest = hashlib.sha256(weights).hexdigest()
    return dataclasses.replace(meta, weights_sha256=digest)  # type: ignore[type-var]


def write_description(place: str, description: Mapping[str, Any]) -> None:
    """Writes ``meta.json``; it comes last, so a folder with it is whole."""
    text = json.dumps(description, indent=2, allow_nan=False)
    storage.write_bytes(place, text.encode())


def read_description(place: str) -> dict[str, Any]:
    """The values of ``meta.json``.

    Raises:
        InputError: it is no JSON object.
    """
    return config.read_object(place, "copy the folder again")


def read_weights(place: str, description: Mapping[str, Any]) -> tuple[dict[str, Tensor], bytes]:
    """The weights whose digest a description names, and the file's bytes.

    Args:
        place: file of the weights.
        description: what :func:`read_description` gave.

    Raises:
        InputError: a truncated, altered or foreign file.
    """
    weights = storage.read_bytes(place)
    found, named = hashlib.sha256(weights).hexdigest(), str(description.get("weights_sha256"))
    if found != named:
        raise InputError(
            f"{place}: SHA-256 {found[:12]}... is not the {named[:12]}... that"
            f" {META} names: truncated or altered; copy the folder again"
        )
    try:
        return load_tensors(weights), weights
    except SafetensorError as error:
        raise InputError(f"{place}: not a safetensors file ({error})") from error


def require_finite(state: Mapping[str, Tensor], where: str) -> None:
    """Refuses NaN and infinity.

    Raises:
        InputError: naming the first tensor that holds one.
    """
    for key, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise InputError(
                f"{where}: {key} holds NaN or infinity: the training diverged; train again with a"
                " lower learning rate"
            )


def require_unaltered(description: Mapping[str, Any], weights: bytes, folder: str) -> None:
    """Refuses a ``meta.json`` that is not what was saved with the weights.

    Args:
        description: what :func:`read_description` gave.
        weights: the bytes of the file of weights.
        folder: where both are, for the message.

    Raises:
        InputError: naming what differs.
    """
    header = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
    copy = header.get("__metadata__", {}).get(META)
    if copy is None:
        raise InputError(
            f"{folder}: the file of weights carries no copy of {META}, so the two cannot be"
            " checked against each other; save the checkpoint again"
        )
    try:
        now, saved = _flat({**description, "weights_sha256": ""}), _flat(json.loads(copy))
    except (ValueError, RecursionError, AttributeError) as error:
        raise InputError(
            f"{folder}: the copy of {META} in the file of weights is not readable; copy the"
            " folder again"
        ) from error
    differences = [
        f"{key} is {now.get(key)!r}, saved as {saved.get(key)!r}"
        for key in sorted(now.keys() | saved.keys())
        if now.get(key) != saved.get(key)
    ]
    if differences:
        raise InputError(
            f"{storage.join(folder, META)}: altered after it was saved:"
            f" {'; '.join(differences[:3])}; copy the folder again"
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted names, as ``--set`` writes them."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found
