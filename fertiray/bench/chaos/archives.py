"""Hostile archives of hostile images: uploads as the service gets them."""

from __future__ import annotations

import gzip
import io
import random
import stat
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from fertiray.bench.chaos.mutate import Hostile, flip_bits, hostile, insert, spoil_number, truncate
from fertiray.data.crops import crop_id
from fertiray.serving.limits import Limits

IMAGES = 8  # of an archive
LIMITS = replace(Limits(), files=64, unpacked_bytes=40 * 2**20, free_bytes=0)
EVIL_NAMES = (
    *("../evil.png", "P1/../../evil.png", "/tmp/evil.png", "C:/evil.png", "..\\..\\evil.png"),
    *("P1//evil.png", "P1/\x01evil.png", "P1/" + 300 * "x", "/".join(["d"] * 600), "P1/x\n.png"),
)

Files = dict[str, bytes]
Pack = Callable[[Files], bytes]


@dataclass(frozen=True)
class Archive:
    """An upload that nobody has vouched for.

    Attributes:
        kind: what it is, a key of :data:`KINDS`.
        data: the content.
        verdict: what must become of it: ``accepted`` with all its images, ``refused``, or
            ``either``.
        images: that it holds.
    """

    kind: str
    data: bytes
    verdict: Literal["accepted", "refused", "either"]
    images: int = IMAGES


def archive(number: int, seed: int) -> Archive:
    """The archive of this number; those of different numbers hold different images."""
    rng = random.Random(f"archive {seed} {number}")
    kind = rng.choice(list(KINDS))
    images = [hostile(10**9 + number * IMAGES + place, seed) for place in range(IMAGES)]
    return KINDS[kind](kind, images, rng)


def zipped(files: Files) -> bytes:
    """A zip of files by name, compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, data in files.items():
            opened.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def tarred(files: Files) -> bytes:
    """A tar of files by name."""
    return _tar({name: (data, {}) for name, data in files.items()})


def gzipped(files: Files) -> bytes:
    """A tar.gz of files by name."""
    return gzip.compress(tarred(files), 1, mtime=0)


PACKS: tuple[Pack, ...] = (zipped, tarred, gzipped)


def tree(images: list[Hostile]) -> Files:
    """Images as a cohort of two patients."""
    return {f"P{n % 2}/S1/{image.name}": image.data for n, image in enumerate(images)}


def _whole(kind: str, images: list[Hostile], rng: random.Random) -> Archive:
    return Archive(kind, rng.choice(PACKS)(tree(images)), "accepted")


def _nested(kind: str, images: list[Hostile], rng: random.Random) -> Archive:
    """An archive in an archive is one more file that is no image."""
    inner = {"P1/S1/more.zip": zipped(tree(images))}
    return Archive(kind, rng.choice(PACKS)({**tree(images), **inner}), "accepted", IMAGES + 1)


def _evil_name(kind: str, images: list[Hostile], rng: random.Random) -> Archive:
    files = {**tree(images), rng.choice(EVIL_NAMES): b"evil"}
    return Archive(kind, rng.choice(PACKS)(files), "refused")


def _link(kind: str, images: list[Hostile], rng: random.Random) -> Archive:
    """A member that is no file: a link out of the folder, a device, a pipe."""
    if rng.random() < 0.3:
        info = zipfile.ZipInfo("P1/S1/link.png")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        buffer = io.BytesIO(zipped(tree(images)))
        with zipfile.ZipFile(buffer, "a") as opened:
            opened.writestr(info, "/etc/hostname")
        return Archive(kind, buffer.getvalue(), "refused")
    types = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
    where = rng.choice(("/etc/hostname", "../../evil.png", "P1/S1/link.png"))
    link = {"P1/S1/link.png": (b"", {"type": rng.choice(types), "linkname": where})}
    own: dict[str, tuple[bytes, dict[str, Any]]] = {
        name: (data, {}) for name, data in tree(images).items()
    }
    return Archive(kind, _tar({**link, **own}), "refused")


def _twice(kind: str, images: list[Hostile], rng: random.Random) -> Archive:
    files = tree(images)
    name = next(iter(files))
    other = rng.choice((f"./{name}", name.replace("/", "/./"), f"{name}/below.png"))
    return Archive(kind, rng.choice(PACKS)({**files, other: b"again"}), "refused")


def _many(kind: str, images: list[Hostile], rng: random.Random) -> Archive:
    more = {f"P1/S1/{number}": b"" for number in range(LIMITS.files)}
    return Archive(kind, rng.choice(PACKS)({**tree(images), **more}), "refused")


def _bomb(kind: str, images: list[Hostile], rng: random.Random) -> Archive:
    """Noughts in any number pack to nothing."""
    noughts = bytes(LIMITS.unpacked_bytes + 1)
    pack = rng.choice((zipped, gzipped))
    return Archive(kind, pack({**tree(images), "P1/S1/noughts.png": noughts}), "refused")


def _encrypted(kind: str, images: list[Hostile], rng: random.Random) -> Archive:
    del rng
    data = bytearray(zipped(tree(images)))
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    return Archive(kind, bytes(data), "refused")


def _damaged(kind: str, images: list[Hostile], rng: random.Random) -> Archive:
    """What is not noticed must do no harm: a changed byte of an uncompressed image is none."""
    change = rng.choice((flip_bits, truncate, insert, spoil_number))
    pack = rng.choice((*PACKS, _parquet))
    return Archive(kind, change(pack(tree(images)), rng), "either")


def _spliced(kind: str, images: list[Hostile], rng: random.Random) -> Archive:
    """The beginning of an archive before the end of one of another format."""
    head, tail = (pack(tree(images)) for pack in rng.sample((*PACKS, _parquet), 2))
    return Archive(kind, head[: rng.randrange(len(head))] + tail[len(tail) // 2 :], "either")


def _no_archive(kind: str, images: list[Hostile], rng: random.Random) -> Archive:
    """Something else in its place: an image, nothing, bytes."""
    data = rng.choice((images[0].data, b"", rng.randbytes(2000), b"PK\5\6" + bytes(18), b"PAR1"))
    return Archive(kind, data, "refused")


def _table(kind: str, images: list[Hostile], rng: random.Random) -> Archive:
    del rng
    return Archive(kind, _parquet(tree(images)), "accepted")


def _parquet(files: Files) -> bytes:
    rows = [
        {
            "patient_id": name.partition("/")[0],
            "slide_id": "S1",
            "crop_id": crop_id("0" * 16, name),
            "image": data,
        }
        for name, data in files.items()
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


KINDS: dict[str, Callable[[str, list[Hostile], random.Random], Archive]] = {
    "whole": _whole,
    "nested": _nested,
    "evil name": _evil_name,
    "link": _link,
    "twice": _twice,
    "too many": _many,
    "bomb": _bomb,
    "encrypted": _encrypted,
    "damaged": _damaged,
    "spliced": _spliced,
    "no archive": _no_archive,
    "table": _table,
}


def _tar(files: dict[str, tuple[bytes, dict[str, Any]]]) -> bytes:
    """A tar of files by name, with what their headers say beside it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as opened:
        for name, (data, header) in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in header.items():
                setattr(info, key, value)
            opened.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
