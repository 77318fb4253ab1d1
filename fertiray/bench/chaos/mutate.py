"""Hostile image files, each the same for the same seed and number.

A file is a whole picture in one of the codings that laboratories send, and one thing is done to it:
a bit turned, an end cut off, a header put before another file's body, a size that promises
gigabytes, pixels or texts that unpack to them, a name that says another format.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from fertiray.bench.chaos.bombs import PNG, bombs, chunk, largest, picture, saved

SUFFIX = {"png": "png", "jpeg": "jpg", "bmp": "bmp", "webp": "webp", "tiff": "tif"}
SIZES = (0, 1, 2, 4096, 16_384, 60_000, 65_535, 2**24 - 1, 2**31 - 1)

Mutator = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Hostile:
    """A file that nobody has vouched for.

    Attributes:
        kind: what was done to it, a key of :data:`WEIGHTS`.
        source: the sample that it was made of; empty where it has none.
        name: file name, with a suffix that may lie.
        data: the content.
    """

    kind: str
    source: str
    name: str
    data: bytes


@cache
def samples() -> dict[str, bytes]:
    """Whole pictures by format and coding, such as ``png-RGBA``; all are accepted as they are."""
    rgb = picture()
    grey = np.ascontiguousarray(rgb[:, :, 1])
    wide = grey.astype(np.uint16) * 256
    rgba, palette = np.dstack([rgb, grey]), Image.fromarray(rgb).quantize(32)
    return {
        "png-L": saved(grey, "PNG"),
        "png-LA": saved(np.dstack([grey, grey]), "PNG"),
        "png-P": saved(palette, "PNG"),
        "png-RGB": saved(rgb, "PNG"),
        "png-RGBA": saved(rgba, "PNG"),
        "png-16": saved(wide, "PNG"),
        "jpeg-L": saved(grey, "JPEG"),
        "jpeg-RGB": saved(rgb, "JPEG", quality=90),
        "jpeg-progressive": saved(rgb, "JPEG", progressive=True),
        "bmp-L": saved(grey, "BMP"),
        "bmp-P": saved(palette, "BMP"),
        "bmp-RGB": saved(rgb, "BMP"),
        "webp-lossy": saved(rgb, "WEBP", quality=80),
        "webp-lossless": saved(rgb, "WEBP", lossless=True),
        "webp-RGBA": saved(rgba, "WEBP"),
        "tiff-P": saved(palette, "TIFF"),
        "tiff-RGB": saved(rgb, "TIFF"),
        "tiff-16": saved(wide, "TIFF"),
        "tiff-lzw": saved(rgb, "TIFF", compression="tiff_lzw"),
        "tiff-deflate": saved(rgb, "TIFF", compression="tiff_adobe_deflate"),
        "tiff-packbits": saved(rgb, "TIFF", compression="packbits"),
    }


def hostile(number: int, seed: int) -> Hostile:
    """The file of this number."""
    rng = random.Random(f"{seed} {number}")
    (kind,) = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))
    source = rng.choice(list(samples()))
    suffix = SUFFIX[source.partition("-")[0]]
    data = samples()[source]
    if kind in MUTATORS:
        data = mutated(data, rng, kind)
    elif kind == "mislabelled":
        suffix = rng.choice([other for other in (*SUFFIX.values(), "txt", "") if other != suffix])
    elif kind == "largest":
        source, data = rng.choice(list(largest().items()))
        suffix = SUFFIX[source.partition("-")[0]]
    elif kind == "bomb":
        source, data = rng.choice(list(bombs().items()))
        suffix = SUFFIX[source.partition("-")[0]]
    else:
        source = ""
        data = b"" if kind == "empty" else _noise(rng)
    return Hostile(kind, source, f"{number:06}.{suffix}".rstrip("."), data)


def mutated(data: bytes, rng: random.Random, kind: str | None = None) -> bytes:
    """A file with one thing done to it, a key of :data:`MUTATORS`, any by default.

    Half of the PNGs get checksums that fit, so that the damage reaches the codec.
    """
    data = MUTATORS[kind or rng.choice(list(MUTATORS))](data, rng)
    return with_right_checksums(data) if data.startswith(PNG) and rng.random() < 0.5 else data


def with_right_checksums(data: bytes) -> bytes:
    """A PNG whose chunks' checksums are made to fit, so that the codec meets the damage."""
    out, at = [data[:8]], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if at + 12 + size > len(data):
            break
        out.append(chunk(data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return b"".join([*out, data[at:]])


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    """Up to eight bits turned, anywhere."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def truncate(data: bytes, rng: random.Random) -> bytes:
    """The beginning of a file."""
    return data[: rng.randrange(len(data))]


def overwrite(data: bytes, rng: random.Random) -> bytes:
    """A run of noughts in place of a run of bytes, not always as long."""
    at = rng.randrange(len(data))
    return data[:at] + bytes(rng.randrange(200)) + data[at + rng.randrange(1, 200) :]


def insert(data: bytes, rng: random.Random) -> bytes:
    """A few bytes too many."""
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[at:]


def spoil_header(data: bytes, rng: random.Random) -> bytes:
    """Extreme bytes among the first 64, where sizes and offsets are."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        out[rng.randrange(min(64, len(out)))] = rng.choice((0, 1, 127, 128, 255))
    return bytes(out)


def spoil_number(data: bytes, rng: random.Random) -> bytes:
    """Four bytes anywhere that read as nought, or as one of the largest numbers."""
    at = rng.randrange(max(1, len(data) - 4))
    number = struct.pack(rng.choice("<>") + "I", rng.choice((0, 2**31, 2**32 - 1)))
    return data[:at] + number + data[at + 4 :]


def splice(data: bytes, rng: random.Random) -> bytes:
    """The head of a file before the body of another, of any format."""
    other = rng.choice(list(samples().values()))
    head = rng.choice((8, 16, 33, 64, 128, len(data) // 2))
    return data[:head] + other[rng.choice((0, head, min(head, len(other) // 2))) :]


def resize_header(data: bytes, rng: random.Random) -> bytes:
    """The same pixels under a header that says another size, up to gigabytes of it."""
    width, height = rng.choice(SIZES), rng.choice(SIZES)
    if data.startswith(PNG):
        return with_right_checksums(_put(data, 16, ">II", width, height))
    if data.startswith(b"\xff\xd8"):
        marker = next(m for m in (b"\xff\xc0", b"\xff\xc2") if m in data)
        return _put(data, data.index(marker) + 5, ">HH", height % 2**16, width % 2**16)
    if data.startswith(b"BM"):
        return _put(data, 18, "<ii", width, rng.choice((-1, 1)) * height)
    if data.startswith(b"RIFF"):
        if data[12:16] == b"VP8X":
            sides = width.to_bytes(4, "little")[:3] + height.to_bytes(4, "little")[:3]
            return data[:24] + sides + data[30:]
        if data[12:16] == b"VP8L":
            return _put(data, 21, "<I", width % 2**14 | height % 2**14 << 14)
        return _put(data, 26, "<HH", width % 2**14, height % 2**14)
    (directory,) = struct.unpack_from("<I", data, 4)
    for entry in range(struct.unpack_from("<H", data, directory)[0]):
        at = directory + 2 + 12 * entry
        side = {256: width, 257: height}.get(struct.unpack_from("<H", data, at)[0])
        if side is not None:
            data = _put(data, at + 2, "<HII", 4, 1, side)  # one number of 32 bits
    return data


MUTATORS: dict[str, Mutator] = {
    "bits flipped": flip_bits,
    "truncated": truncate,
    "overwritten": overwrite,
    "inserted": insert,
    "header spoilt": spoil_header,
    "number spoilt": spoil_number,
    "spliced": splice,
    "resized header": resize_header,
}

WEIGHTS = {
    **dict.fromkeys(MUTATORS, 100),
    "mislabelled": 50,
    "noise": 30,
    "empty": 5,
    "bomb": 20,
    "largest": 2,
}


def _put(data: bytes, at: int, code: str, *numbers: int) -> bytes:
    packed = struct.pack(code, *numbers)
    return data[:at] + packed + data[at + len(packed) :]


def _noise(rng: random.Random) -> bytes:
    """Bytes that mean nothing, often behind the first bytes of a format."""
    start = rng.choice((b"", PNG, b"\xff\xd8\xff\xe0", b"BM", b"RIFF\0\1\0\0WEBPVP8X", b"II*\0"))
    return start + rng.randbytes(rng.randrange(1, 4000))
