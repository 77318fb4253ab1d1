"""Configurations are frozen dataclasses, loaded strictly and identified by a digest."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from fertiray import storage
from fertiray.errors import InputError

T = TypeVar("T")


def _unknown_keys(cls: type, values: Mapping[str, Any], where: str) -> None:
    """Raises for the first key that is not a field, at any depth, listing the valid ones."""
    types = get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    for key, value in values.items():
        if key not in names:
            raise InputError(f"{where}: unknown key {key!r}; valid keys: {', '.join(names)}")
        if dataclasses.is_dataclass(types[key]) and isinstance(value, Mapping):
            _unknown_keys(types[key], value, f"{where}: {key}")


def load(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Builds a frozen dataclass from plain values, refusing unknown keys and wrong types.

    Args:
        cls: the dataclass.
        values: plain values by field name, as JSON holds them.
        where: what the values came from (a file, a flag), named in the error.

    Raises:
        InputError: an unknown key (the valid ones are listed), a value of the wrong type, or a
            number that is not finite.
    """
    _unknown_keys(cls, values, where)
    try:
        loaded = TypeAdapter(cls).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or cls.__name__
        given = repr(first["input"])
        given = given if len(given) <= 80 else given[:77] + "..."
        raise InputError(f"{where}: {field}: {first['msg']} (got {given})") from error
    for field, number in _not_finite(dataclasses.asdict(loaded)):  # type: ignore[call-overload]
        raise InputError(f"{where}: {field}: {number} is no finite number; give one")
    return loaded


def _not_finite(value: Any, place: str = "") -> Iterator[tuple[str, float]]:
    """Where in nested values NaN or infinity stands, by dotted name."""
    if isinstance(value, float) and not math.isfinite(value):
        yield place, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _not_finite(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _not_finite(inner, place)


def override(config: T, assignments: Sequence[str], where: str = "--set") -> T:
    """The configuration with ``key=value`` or ``key.inner=value`` assignments applied.

    A value is read as JSON where that parses and as a string where it does not, so
    ``lr=1e-3``, ``amp=true`` and ``model=basic_cnn`` all mean what they say.

    Raises:
        InputError: an assignment without ``=``, an unknown key or a value of the wrong type.
    """
    values = dataclasses.asdict(config)  # type: ignore[call-overload]
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise InputError(f"{where} {assignment}: write key=value")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = text
        *parents, last = path.strip().split(".")
        place = values
        for parent in parents:
            inner = place.get(parent)
            if not isinstance(inner, dict):
                raise InputError(
                    f"{where} {assignment}: {parent!r} has no inner keys;"
                    f" valid keys: {', '.join(place)}"
                )
            place = inner
        place[last] = value
    return load(type(config), values, where)


def read_object(place: str, remedy: str) -> dict[str, Any]:
    """The JSON object that a file holds.

    Args:
        place: the file, local or ``s3://``.
        remedy: what to do where it holds something else.

    Raises:
        InputError: no such file, or no JSON object.
    """
    try:
        values = json.loads(storage.read_bytes(place))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not readable as JSON ({error}); {remedy}") from error
    if not isinstance(values, dict):
        raise InputError(f"{place}: must hold a JSON object; {remedy}")
    return values


def digest(config: Any) -> str:
    """Sixteen hex digits that identify a dataclass or plain JSON values, whatever the key order."""
    plain = dataclasses.asdict(config) if dataclasses.is_dataclass(config) else config  # type: ignore[arg-type]
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
