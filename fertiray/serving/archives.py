"""Uploaded archives onto disk, written for files nobody has vouched for.

An archive is unpacked into a folder that ``fertiray ingest`` then reads, so that an upload gives
the crop store that the same folder would have given. Nothing is written outside that folder, and
no more than the limits allow, whatever the archive says of itself. What is refused is the archive
as a whole, with the name of the member that is at fault: a result that silently lacks a part of
what was sent would be worse. A damaged *image* is not at fault; it becomes a reject, as always.

Zip (stored or deflated) and tar (plain or gzip) are unpacked; for Parquet see ``tables``. Other
compressions are refused, because their headers can ask for gigabytes of memory.
"""

from __future__ import annotations

import errno
import gzip
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, cast

from fertiray.errors import InputError
from fertiray.serving.limits import Limits

Kind = Literal["zip", "tar", "parquet"]

# What Python's readers raise for bytes that are no archive; ValueError for names that are no text.
DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error),
    *(EOFError, struct.error, NotImplementedError, ValueError),
)
CHUNK = 2**20
LISTING_PER_FILE = 1024  # bytes of a zip's directory for one member: its name, twice over
LONG_NAME = 64 * 2**10  # bytes of a tar's header extension
END = 1024  # zero bytes at the end of a tar
PADDING = 64 * CHUNK  # what may follow them


@dataclass(frozen=True)
class Unpacked:
    """What came out of an archive.

    Attributes:
        files: written.
        bytes: written.
    """

    files: int
    bytes: int


def kind_of(file: Path) -> Kind:
    """What an upload is, by its first bytes.

    Raises:
        InputError: nothing that is taken.
    """
    with file.open("rb") as opened:
        head = opened.read(262 + 5)
    if head[:4] in (b"PK\3\4", b"PK\5\6"):
        return "zip"
    if head[:4] == b"PAR1":
        return "parquet"
    if head[:2] == b"\x1f\x8b" or head[257:262] == b"ustar":
        return "tar"
    raise InputError("the upload is not a zip, tar, tar.gz or Parquet file; send one of these")


def unpack(
    file: Path, folder: Path, limits: Limits, *, strip: int = 0, going: Callable[[], None]
) -> Unpacked:
    """Writes the files of a zip or tar below an empty folder.

    Args:
        file: the archive.
        folder: made, and filled.
        limits: ``files`` and ``unpacked_bytes`` count here.
        strip: leading folders of every name that are left out.
        going: called at every file; ends the work by raising.

    Raises:
        InputError: a name that leads out of the folder, a link, an encrypted or damaged member, or
            more than the limits allow; names the member.
    """
    folder.mkdir(parents=True)
    members = _zip_members(file, limits) if kind_of(file) == "zip" else _tar_members(file)
    files = size = 0
    try:
        for name, opened in members:
            going()
            files += 1
            if files > limits.files:
                raise InputError(f"more than {limits.files} files; send the archive in parts")
            parts = _safe_parts(name)[strip:]
            if not parts:
                raise InputError(f"{shown(name)} lies above the folder that is to be left out")
            size += _write(folder.joinpath(*parts), opened, name, limits.unpacked_bytes - size)
    except InputError:
        raise
    except DAMAGE as error:
        raise InputError(f"the archive is damaged ({shown(str(error))}); make it again") from error
    except OSError as error:
        # A zip's directory can point before the start of the file.
        if error.errno != errno.EINVAL:
            raise
        raise InputError("the archive is damaged (its directory); make it again") from error
    if not files:
        raise InputError("the archive holds no files; put the images into it")
    return Unpacked(files, size)


def _zip_members(file: Path, limits: Limits) -> Iterator[tuple[str, IO[bytes]]]:
    _check_listing(file, limits)
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            unix = info.external_attr >> 16
            if unix and not (stat.S_ISREG(unix) or stat.S_IFMT(unix) == 0):
                raise InputError(f"{shown(info.filename)} is a link or a device; pack files only")
            if info.flag_bits & 1:
                raise InputError(f"{shown(info.filename)} is encrypted; pack without a password")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise InputError(f"{shown(info.filename)}: use the usual compression, deflate")
            with archive.open(info) as opened:
                yield info.filename, opened


def _check_listing(file: Path, limits: Limits) -> None:
    """Refuses a zip whose directory, which Python reads whole, is too large for its limit."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        opened.seek(max(0, size - 66_000))
        tail = opened.read()
        end = tail.rfind(b"PK\5\6")
        if end < 0 or len(tail) < end + 22:
            raise InputError("the zip has no end, so a part of it is missing; send it again")
        (listing,) = struct.unpack_from("<I", tail, end + 12)
        if tail[max(0, end - 20) : end].startswith(b"PK\6\7"):  # zip64: the real figures are there
            (place,) = struct.unpack_from("<Q", tail, end - 20 + 8)
            opened.seek(min(place, size))
            record = opened.read(56)
            listing = struct.unpack_from("<Q", record, 40)[0] if len(record) == 56 else size
    if listing > limits.files * LISTING_PER_FILE:
        raise InputError(f"more than {limits.files} files; send the archive in parts")


class _Member(tarfile.TarInfo):
    """A tar header whose extensions, which Python reads whole, are of bounded size."""

    _EXTENSIONS = (
        *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
        *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    )

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        found = super().frombuf(buf, encoding, errors)
        if found.type in cls._EXTENSIONS and not 0 <= found.size <= LONG_NAME:
            raise InputError("a file name in the archive is too long")
        return found


def _tar_members(file: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with file.open("rb") as opened:
        packed = opened.read(2) == b"\x1f\x8b"
    # Through gzip, and to its end, because tarfile's own unpacking verifies no checksum.
    with cast(IO[bytes], gzip.open(file) if packed else file.open("rb")) as opened:
        tail = _Tail(opened)
        yield from _tar_stream(tail)
        for _ in range(PADDING // CHUNK):
            if not tail.read(CHUNK):
                break
        if tail.last.strip(b"\0") or len(tail.last) < END:
            raise InputError("the tar has no end, so a part of it is missing; send it again")


def _tar_stream(tail: _Tail) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(fileobj=cast(IO[bytes], tail), mode="r|", tarinfo=_Member) as archive:
        for info in archive:
            if info.isdir():
                continue
            if not info.isreg() or info.issparse():
                raise InputError(f"{shown(info.name)} is a link or a device; pack files only")
            member = archive.extractfile(info)
            assert member is not None  # a regular file
            with member:
                yield info.name, member
            archive.members.clear()  # type: ignore[attr-defined]  # a stream never goes back


class _Tail:
    """A stream that remembers its last bytes: a tar that was cut short ends otherwise."""

    def __init__(self, source: IO[bytes]) -> None:
        self.last = b""
        self._source = source

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        self.last = (self.last + data)[-END:]
        return data


def _safe_parts(name: str) -> list[str]:
    """The folders and the file name of a member.

    Raises:
        InputError: a name that leads anywhere but down.
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part != "."]
    bad = (
        not parts
        or any(part in ("", "..") for part in parts)
        or (len(parts[0]) == 2 and parts[0][1] == ":")
        or any(ord(letter) < 32 or ord(letter) == 127 for letter in name)
        or any(len(part.encode("utf-8", "surrogateescape")) > 255 for part in parts)
        or len(name) > 1000
    )
    if bad:
        raise InputError(f"{shown(name)} is no plain relative name; pack the folder again")
    return parts


def _write(place: Path, source: IO[bytes], name: str, room: int) -> int:
    """Copies a member to a new file; at most ``room`` bytes."""
    written = 0
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except (FileExistsError, NotADirectoryError, UnicodeError, ValueError) as error:
        raise InputError(f"{shown(name)} is in the archive twice") from error
    with os.fdopen(handle, "wb") as target:
        for chunk in _chunks(source):
            written += len(chunk)
            if written > room:
                raise InputError(f"{shown(name)}: the archive unpacks to more than is allowed")
            target.write(chunk)
    return written


def _chunks(source: IO[bytes]) -> Iterable[bytes]:
    while chunk := source.read(CHUNK):
        yield chunk


def shown(name: str) -> str:
    """A name from outside, fit for a message: printable ASCII, cut short."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in name)
    plain = plain.encode("ascii", "backslashreplace").decode()
    return plain if len(plain) <= 80 else plain[:77] + "..."
