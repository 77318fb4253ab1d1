"""A whole recipe as a file, for ``--config``: what a study found best, to train with."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from fertiray import config, storage
from fertiray.errors import InputError
from fertiray.training.config import TrainConfig


def write_config(place: str, settings: TrainConfig) -> None:
    """Writes a recipe as JSON, local or ``s3://``."""
    text = json.dumps(dataclasses.asdict(settings), indent=2) + "\n"
    storage.write_bytes(place, text.encode())


def read_config(place: str) -> TrainConfig:
    """The recipe of a file, strictly.

    Raises:
        InputError: no such file, no JSON, an unknown key, or a value of the wrong type.
    """
    values = config.read_object(place, "give a recipe as tune writes it")
    return config.load(TrainConfig, values, place)


def with_config(place: str | None, model: str | None, settings: Sequence[str] | None) -> list[str]:
    """``key=value`` changes that turn a paper's recipe into that of a file, and those given.

    Args:
        place: the file; None for none.
        model: recipe that is asked for by name, which a file rules out.
        settings: changes that come after it.

    Raises:
        InputError: as :func:`read_config`; or both a file and a name.
    """
    if place is None:
        return [*(settings or ())]
    if model is not None:
        raise InputError(f"--config {place}: is a whole recipe; leave out --model {model}")
    values = dataclasses.asdict(read_config(place))
    return [f"{key}={json.dumps(value)}" for key, value in values.items()] + [*(settings or ())]
