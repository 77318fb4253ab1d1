"""Tokens open what they are for, nothing once they are over; the file may change at any time."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from fertiray.errors import InputError
from fertiray.serving import tokens


def test_a_token_opens_its_clinic_and_its_secret_is_nowhere(tmp_path):
    file = tmp_path / "tokens.json"
    text, token = tokens.add(file, "clinic-a", label="scanner")
    assert tokens.Keyring(file).check(text) == token
    secret = text.split("_", 2)[2]
    assert len(secret) == 43  # 32 random bytes in base64
    assert secret not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("change", ["", "x", "frt_", "frt__", "frt_0_0", "\ud800", "a" * 10_000])
def test_anything_else_opens_nothing(tmp_path, change):
    file = tmp_path / "tokens.json"
    text, token = tokens.add(file, "a")
    ring = tokens.Keyring(file)
    assert ring.check(change) is None
    assert ring.check(text[:-1]) is None
    assert ring.check(text + change + "x") is None
    assert ring.check(text) == token
    assert ring.check(text.replace("frt_", "xyz_")) is None


def test_a_token_ends_when_its_time_is_over(tmp_path):
    file = tmp_path / "tokens.json"
    text, token = tokens.add(file, "a", days=1)
    assert not token.expired()
    assert token.expired(datetime.now(UTC) + timedelta(days=1))
    values = json.loads(file.read_text())
    values["tokens"][0]["expires"] = "2020-01-01T00:00:00+00:00"
    file.write_text(json.dumps(values))
    assert tokens.Keyring(file).check(text) is None


def test_tokens_are_exchanged_while_the_service_runs(tmp_path):
    file = tmp_path / "tokens.json"
    old, first = tokens.add(file, "a")
    ring = tokens.Keyring(file)
    new, second = tokens.add(file, "a")
    assert ring.check(old) == first
    assert ring.check(new) == second
    tokens.revoke(file, first.id)
    assert ring.check(old) is None
    assert ring.check(new) == second
    file.write_text("spoilt")
    assert ring.check(new) is None
    file.unlink()
    assert ring.check(new) is None


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_to_opens_nothing(tmp_path, mode):
    file = tmp_path / "tokens.json"
    text, _ = tokens.add(str(file), "clinic-a")
    assert file.stat().st_mode & 0o777 == 0o600
    keyring = tokens.Keyring(file)
    assert keyring.check(text)
    file.chmod(mode)
    assert keyring.check(text) is None
    with pytest.raises(InputError, match="others may write"):
        tokens.Keyring(file)
    file.chmod(0o644)  # as a mounted secret is: to be read by many, written by nobody else
    assert keyring.check(text)


def test_none_is_lost_when_several_are_added_at_once(tmp_path):
    file = tmp_path / "tokens.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: tokens.add(file, f"clinic-{n}"), range(24)))
    assert len(tokens.listed(file)) == 24


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: tokens.add(f, "a b"), "--clinic 'a b': use up to 64"),
        (lambda f: tokens.add(f, "a", days=0), "--days 0"),
        (lambda f: tokens.listed(f), "make one with `fertiray token add`"),
        (lambda f: tokens.Keyring(f), "No such file"),
        (lambda f: tokens.revoke(f, "x"), "No such file"),
        (lambda f: (tokens.add(f, "a"), tokens.revoke(f, "x")), "no token 'x'; there are"),
        (lambda f: (f.write_text("[]"), tokens.listed(f)), "not a file of tokens"),
        (lambda f: (f.write_text('{"format": 1, "tokens": [{"i": 1}]}'), tokens.listed(f)), "'i'"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, call, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(")) as error:
        call(tmp_path / "tokens.json")
    assert "\n" not in str(error.value)
