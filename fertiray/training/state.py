"""The state of a training between two epochs, as bytes that hold numbers only: nothing is pickled.

Nested dictionaries, lists and tuples of tensors and plain JSON values go into one safetensors
document: the tensors as they are, the rest as JSON in its header.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fertiray.errors import InputError

STATE = "state"


def pack(state: dict[str, Any]) -> bytes:
    """A nested state as bytes.

    Args:
        state: dictionaries (of any JSON keys or integers), lists and tuples of tensors, numbers,
            strings, booleans and None.
    """
    tensors: dict[str, Tensor] = {}
    plain = _plain(state, tensors)
    # safetensors refuses a document without tensors and tensors that share memory.
    tensors["."] = torch.zeros(0)
    return save(tensors, metadata={STATE: json.dumps(plain)})


def unpack(data: bytes, where: str) -> dict[str, Any]:
    """The state that :func:`pack` was given.

    Raises:
        InputError: the bytes are truncated or something else.
    """
    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        state = dict(_nested(json.loads(header["__metadata__"][STATE]), tensors))
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{where}: not the state of a training ({error}); delete it") from error
    return state


def _plain(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _plain(inner, tensors)] for key, inner in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_plain(inner, tensors) for inner in value]}
    return value


def _nested(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "dict":
        return {key: _nested(own, tensors) for key, own in inner}
    items = [_nested(own, tensors) for own in inner]
    return items if kind == "list" else tuple(items)
