"""API tokens: who may come in, and for which clinic.

A token is ``frt_ID_SECRET``; the secret has 256 random bits. The file holds its SHA-256, which is
enough for a secret that nobody can guess (a slow hash is for what people think up), and the whole
file can be replaced while the service runs: it is read again when it changes.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fertiray import config
from fertiray.errors import InputError

FORMAT = 1
DAYS = 365
CLINIC = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_NOBODY = "0" * 64


@dataclass(frozen=True)
class Token:
    """A token as the file knows it: everything but the secret.

    Attributes:
        id: the part of the token that is no secret; names it in lists and in the audit log.
        clinic: whose jobs it opens; None for an operator, who sees metrics and no jobs.
        label: what it is for.
        sha256: hex digest of the secret.
        created: ISO 8601, UTC.
        expires: ISO 8601, UTC; from then on it opens nothing.
    """

    id: str
    clinic: str | None
    label: str
    sha256: str
    created: str
    expires: str

    def expired(self, now: datetime | None = None) -> bool:
        """Whether its time is over."""
        return datetime.fromisoformat(self.expires) <= (now or datetime.now(UTC))


def add(
    file: str | Path, clinic: str | None, *, label: str = "", days: float = DAYS
) -> tuple[str, Token]:
    """Makes a token and writes its digest into the file.

    Args:
        file: the file of tokens; made where it does not exist, readable by its owner alone.
        clinic: letters, digits, ``_`` and ``-``; None for an operator.
        label: what it is for.
        days: until it expires.

    Returns:
        The token's text, which is nowhere else, and what the file keeps.

    Raises:
        InputError: an unusable clinic name or time, or a file that is no file of tokens.
    """
    if clinic is not None and not CLINIC.fullmatch(clinic):
        raise InputError(f"--clinic {clinic!r}: use up to 64 letters, digits, _ and -")
    if not 0 < days <= 3650:
        raise InputError(f"--days {days:g}: give more than 0 and at most 3650")
    now = datetime.now(UTC)
    secret = secrets.token_urlsafe(32)
    token = Token(
        id=secrets.token_hex(6),
        clinic=clinic,
        label=label,
        sha256=hashlib.sha256(secret.encode()).hexdigest(),
        created=now.isoformat(timespec="seconds"),
        expires=(now + timedelta(days=days)).isoformat(timespec="seconds"),
    )
    with _locked(Path(file)):
        known = listed(file) if Path(file).exists() else []
        _write(Path(file), [*known, token])
    return f"frt_{token.id}_{secret}", token


def listed(file: str | Path) -> list[Token]:
    """All tokens of a file, expired ones too.

    Raises:
        InputError: there is no such file, it is no file of tokens, or others may write to it.
    """
    try:
        values = json.loads(Path(file).read_text())
        writable = Path(file).stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}; make one with `fertiray token add`") from error
    except ValueError as error:
        raise InputError(f"{file}: not JSON ({error}); restore it or make it anew") from error
    if writable:
        raise InputError(f"{file}: others may write tokens of their own into it; chmod go-w it")
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise InputError(f"{file}: not a file of tokens of format {FORMAT}; make it anew")
    return [config.load(Token, entry, str(file)) for entry in values.get("tokens", [])]


def revoke(file: str | Path, token_id: str) -> Token:
    """Takes a token out of the file; it opens nothing from now on.

    Raises:
        InputError: no token has this id, or the file is unusable.
    """
    with _locked(Path(file)):
        known = listed(file)
        found = [token for token in known if token.id == token_id]
        if not found:
            ids = ", ".join(token.id for token in known) or "none"
            raise InputError(f"{file}: no token {token_id!r}; there are: {ids}")
        _write(Path(file), [token for token in known if token.id != token_id])
    return found[0]


class Keyring:
    """The tokens of a file that may change at any time.

    Args:
        file: as written by :func:`add`.

    Raises:
        InputError: the file is missing or unusable now.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)
        self._tokens: dict[str, Token] = {token.id: token for token in listed(file)}
        self._seen = self._stamp()

    def check(self, text: str) -> Token | None:
        """The token that a text is, or None: unknown, wrong, expired or revoked.

        An unknown id costs the same comparison as a known one, and the comparison itself takes the
        same time wherever the texts differ.
        """
        self._refresh()
        prefix, _, rest = text.partition("_")
        token_id, _, secret = rest.partition("_")
        token = self._tokens.get(token_id)
        digest = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
        same = hmac.compare_digest(digest, token.sha256 if token else _NOBODY)
        if token is None or not same or prefix != "frt" or token.expired():
            return None
        return token

    def _refresh(self) -> None:
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._tokens = {token.id: token for token in listed(self.file)}
        except InputError:  # gone or spoilt: nobody comes in until it is mended
            self._tokens = {}

    def _stamp(self) -> tuple[int, ...]:
        try:
            found = self.file.stat()
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_ino, found.st_size, found.st_mode


def _write(file: Path, tokens: Sequence[Token]) -> None:
    text = json.dumps({"format": FORMAT, "tokens": [asdict(t) for t in tokens]}, indent=2)
    temporary = file.with_name(f".{file.name}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as opened:
        opened.write(text + "\n")
        opened.flush()
        os.fsync(handle)
    temporary.replace(file)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """One writer at a time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_name(f".{file.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
