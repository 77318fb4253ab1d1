"""Files that are small and would take much: memory that they unpack to, or time.

Beside them the largest pictures that there may be, which say what decoding may at most take.
"""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from typing import Any

import cv2
import numpy as np
from PIL import Image

from fertiray.data.images import CROP, Pixels

WIDTH, HEIGHT = 45, 37  # odd, so that every format has to pad its rows
LARGE = 2048  # of a square with as many pixels as a crop may have
BOMB = 2**31  # bytes that a bomb unpacks to
EMPTY_BLOCKS = b"\x78\1" + b"\0\0\0\xff\xff" * 200_000 + b"\3\0\0\0\0\1"  # a zlib stream of nothing
PNG = b"\x89PNG\r\n\x1a\n"


def picture(width: int = WIDTH, height: int = HEIGHT, seed: int = 0) -> Pixels:
    """A stained blob on a bright background with some noise: H x W x 3 uint8 RGB."""
    rng = np.random.default_rng(seed)
    canvas = np.full((height, width, 3), (225, 222, 230), np.uint8)
    centre = (width // 2, height // 2)
    cv2.ellipse(canvas, centre, (width // 5, height // 3), 30, 0, 360, (90, 40, 140), -1)
    return np.clip(canvas + rng.normal(0, 4, canvas.shape), 0, 255).astype(np.uint8)


def saved(array: np.ndarray[Any, Any] | Image.Image, kind: str, **options: Any) -> bytes:
    """An image as Pillow encodes it."""
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    """A chunk of a PNG, with its checksum."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(ihdr: bytes, stream: bytes, *before: bytes) -> bytes:
    """A PNG.

    Args:
        ihdr: body of the header.
        stream: the pixels, compressed.
        before: chunks between header and pixels.
    """
    parts = [PNG, chunk(b"IHDR", ihdr), *before, chunk(b"IDAT", stream), chunk(b"IEND", b"")]
    return b"".join(parts)


@cache
def largest() -> dict[str, bytes]:
    """Whole pictures as large as a crop may be: what decoding may at most cost."""
    assert CROP.max_pixels == LARGE * LARGE
    rgba = np.dstack([np.full((LARGE, LARGE, 3), 200, np.uint8), np.full((LARGE, LARGE), 90)])
    image = Image.fromarray(rgba.astype(np.uint8))
    return {
        f"png-RGBA {LARGE}": saved(image, "PNG", compress_level=1),
        f"jpeg-progressive {LARGE}": saved(image.convert("RGB"), "JPEG", progressive=True),
        f"tiff-RGBA {LARGE}": saved(image, "TIFF", compression="tiff_adobe_deflate"),
        f"webp-RGBA {LARGE}": saved(image, "WEBP", lossless=True, method=0),
    }


@cache
def bombs() -> dict[str, bytes]:
    """Files that would take much: memory that they unpack to, or time."""
    noughts = packed_noughts(BOMB)

    def header(colour: int, side: int = 20) -> bytes:
        return struct.pack(">IIBBBBB", side, side, 8, colour, 0, 0, 0)

    row = zlib.compress(bytes(20 * 61))
    megabyte = packed_noughts(2**20)
    return {
        "png-RGB pixels": png(header(2), noughts),
        "png-RGB large": png(header(2, LARGE), noughts),
        "png-RGBA pixels": png(header(6), noughts),
        "png-RGB text": png(header(2), row, chunk(b"zTXt", b"Comment\0\0" + noughts)),
        "png-RGB profile": png(header(2), row, chunk(b"iCCP", b"profile\0\0" + noughts)),
        "tiff-deflate pixels": tiff(20, 20, noughts, coding=8),
        "tiff-deflate strips": tiff(4, 4096, megabyte, coding=8, strips=4096),
        "tiff-deflate empty strips": tiff(4, 4096, EMPTY_BLOCKS, coding=8, strips=4096),
        "tiff-L tags": tiff(20, 20, bytes(2**20), coding=1, tags=4000),
        "jpeg-progressive scans": many_scans(LARGE),
    }


def tiff(
    width: int, height: int, strip: bytes, *, coding: int, strips: int = 1, tags: int = 0
) -> bytes:
    """A TIFF of 8-bit grey samples.

    Args:
        width: that the header says, in pixels.
        height: the same.
        strip: pixels of each strip, coded; they are in the file once.
        coding: number of the compression.
        strips: how many.
        tags: unknown ones, each of which claims the strip as its text.
    """
    lists = 8 + len(strip)
    directory = lists + 8 * strips
    one = strips == 1
    entries = [
        *((256, 4, 1, width), (257, 4, 1, height), (258, 4, 1, 8), (259, 4, 1, coding)),
        *((262, 4, 1, 1), (273, 4, strips, 8 if one else lists), (277, 4, 1, 1)),
        *((278, 4, 1, height // strips),),
        (279, 4, strips, len(strip) if one else lists + 4 * strips),
        *((40_000 + number, 2, len(strip), 8) for number in range(tags)),
    ]
    return b"".join(
        [
            struct.pack("<2sHI", b"II", 42, directory),
            strip,
            struct.pack("<I", 8) * strips,
            struct.pack("<I", len(strip)) * strips,
            struct.pack("<H", len(entries)),
            *(struct.pack("<HHII", *entry) for entry in entries),
            bytes(4),
        ]
    )


def many_scans(side: int) -> bytes:
    """A progressive JPEG that goes over its pixels some 2,600 times, by the standard.

    Every coefficient of every colour has a scan of its own for each of its 14 bits, and all are
    nought, so a scan takes a few bytes: a run of up to 32,767 blocks is one code (T.81, G.1.2.2).

    Args:
        side: width and height in pixels, a multiple of 8.
    """
    blocks = (side // 8) ** 2
    runs, rest = divmod(blocks, 32_767)
    assert rest.bit_length() <= 15
    bits = ("0" + "1" * 14) * runs
    # The rest as runs of powers of two: code 0 stands for 2^14 and more, and 10 for one block.
    bits += "10" * rest if rest < 2**14 else "0" + f"{rest - 2**14:014b}"
    tables = b"\0" + _counts(1) + b"\0" + b"\x10" + _counts(1, 1) + b"\xe0\x00"
    parts = [
        b"\xff\xd8",
        _segment(0xDB, b"\0" + b"\1" * 64),
        _segment(0xC2, struct.pack(">BHHB", 8, side, side, 3) + b"\1\x11\0\2\x11\0\3\x11\0"),
        _segment(0xC4, tables),
        _segment(0xDA, b"\3\1\0\2\0\3\0" + b"\0\0\0"),
        _entropy("0" * 3 * blocks),
    ]
    run = _entropy(bits)
    for low in range(13, -1, -1):
        high = 0 if low == 13 else low + 1
        for colour in (1, 2, 3):
            for place in range(1, 64):
                what = bytes((1, colour, 0, place, place, high << 4 | low))
                parts += [_segment(0xDA, what), run]
    return b"".join([*parts, b"\xff\xd9"])


def _counts(*of_length: int) -> bytes:
    return bytes([*of_length, *(16 - len(of_length)) * [0]])


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _entropy(bits: str) -> bytes:
    """Bits of a scan as bytes, the last one filled with ones."""
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")


def packed_noughts(size: int) -> bytes:
    """A zlib stream of so many noughts, a multiple of 2^20, a thousandth as long."""
    packer = zlib.compressobj(9)
    first, again = (
        packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2)
    )
    blocks = first + again * (size // 2**20 - 1)
    checksum = size % 65_521 << 16 | 1  # Adler-32 of noughts
    return blocks + b"\3\0" + checksum.to_bytes(4, "big")
