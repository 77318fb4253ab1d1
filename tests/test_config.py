"""Strict loading: a wrong key or value is named, with the valid ones."""

from dataclasses import dataclass, field

import pytest

from fertiray import config
from fertiray.errors import InputError


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    sizes: tuple[int, ...] = (1, 2)


def test_loads_nested_values():
    loaded = config.load(Outer, {"name": "a", "inner": {"rate": 2}, "sizes": [3]}, "file.json")
    assert loaded == Outer("a", Inner(2.0), (3,))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "a", "naem": 1}, "file.json: unknown key 'naem'; valid keys: name, inner, sizes"),
        ({"name": "a", "inner": {"rat": 1}}, "file.json: inner: unknown key 'rat'; valid"),
        ({"name": 3}, "file.json: name: Input should be a valid string"),
        ({"name": "a", "inner": {"rate": "fast"}}, "file.json: inner.rate: Input should be a"),
        ({}, "file.json: name: Field required"),
    ],
)
def test_names_what_is_wrong(values, message):
    with pytest.raises(InputError) as caught:
        config.load(Outer, values, "file.json")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_override_reads_json_and_strings():
    changed = config.override(Outer("a"), ["name=b", "inner.rate=1e-3", "sizes=[4,5]"])
    assert changed == Outer("b", Inner(0.001), (4, 5))


@pytest.mark.parametrize("assignment", ["name", "nome=b", "inner.rat=1", "name.x=1", "inner=3"])
def test_override_refuses(assignment):
    with pytest.raises(InputError, match="--set"):
        config.override(Outer("a"), [assignment])


def test_digest_depends_on_values_not_on_order():
    assert config.digest({"a": 1, "b": [2]}) == config.digest({"b": [2], "a": 1})
    assert config.digest(Outer("a")) != config.digest(Outer("b"))
