"""Files nobody has vouched for: broken, cut short, too large, mutated at random."""

from __future__ import annotations

import io
import random
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from fertiray.data.images import CROP, DEFAULT, REASONS, ImageError, Limits, decode

# Only pytest shows them: it resets the filter that fertiray.data.images sets.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")

WIDTH, HEIGHT = 45, 37  # odd, so that every format has to pad its rows


def picture(width: int = WIDTH, height: int = HEIGHT, seed: int = 0) -> np.ndarray:
    """A stained blob on a bright background with some noise."""
    rng = np.random.default_rng(seed)
    canvas = np.full((height, width, 3), (225, 222, 230), np.uint8)
    centre = (width // 2, height // 2)
    cv2.ellipse(canvas, centre, (width // 5, height // 3), 30, 0, 360, (90, 40, 140), -1)
    return np.clip(canvas + rng.normal(0, 4, canvas.shape), 0, 255).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def of(array: np.ndarray) -> Image.Image:
    return Image.fromarray(array)


def attempt(data: bytes, limits: Limits = DEFAULT) -> tuple[np.ndarray | None, str]:
    try:
        return decode(data, limits=limits), ""
    except ImageError as error:
        return None, error.reason


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(ihdr: bytes, raw: bytes, *before: bytes) -> bytes:
    data = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", ihdr), *before]
    return b"".join([*data, chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")])


RGB = picture()
GREY = np.ascontiguousarray(RGB[:, :, 1])
GREY16 = GREY.astype(np.uint16) * 256
RGBA = np.dstack([RGB, GREY])
LA_IMAGE = np.dstack([GREY, GREY])

SAMPLES = {
    "png-L": saved(of(GREY), "PNG"),
    "png-LA": saved(of(LA_IMAGE), "PNG"),
    "png-P": saved(of(RGB).quantize(32), "PNG"),
    "png-RGB": saved(of(RGB), "PNG"),
    "png-RGBA": saved(of(RGBA), "PNG"),
    "png-16": saved(of(GREY16), "PNG"),
    "jpeg-L": saved(of(GREY), "JPEG"),
    "jpeg-RGB": saved(of(RGB), "JPEG", quality=90),
    "jpeg-progressive": saved(of(RGB), "JPEG", progressive=True),
    "bmp-L": saved(of(GREY), "BMP"),
    "bmp-P": saved(of(RGB).quantize(32), "BMP"),
    "bmp-RGB": saved(of(RGB), "BMP"),
    "webp-lossy": saved(of(RGB), "WEBP", quality=80),
    "webp-lossless": saved(of(RGB), "WEBP", lossless=True),
    "webp-RGBA": saved(of(RGBA), "WEBP"),
    "tiff-P": saved(of(RGB).quantize(32), "TIFF"),
    "tiff-RGB": saved(of(RGB), "TIFF"),
    "tiff-16": saved(of(GREY16), "TIFF"),
    "tiff-lzw": saved(of(RGB), "TIFF", compression="tiff_lzw"),
    "tiff-deflate": saved(of(RGB), "TIFF", compression="tiff_adobe_deflate"),
    "tiff-packbits": saved(of(RGB), "TIFF", compression="packbits"),
}


def resized(data: bytes, at: int, code: str, width: int, height: int) -> bytes:
    packed = struct.pack(code, width, height)
    return data[:at] + packed + data[at + len(packed) :]


def png_of(width: int, height: int) -> bytes:
    return png(struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"\0" * 99)


def rechunked(data: bytes, raw: bytes) -> bytes:
    """A PNG with the header of one and other pixel data, checksums right."""
    return data[:33] + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def pixel_stream(data: bytes) -> bytes:
    at = data.index(b"IDAT")
    size = int.from_bytes(data[at - 4 : at], "big")
    return zlib.decompress(data[at + 4 : at + 4 + size])


JPEG = SAMPLES["jpeg-RGB"]
PNG = SAMPLES["png-RGB"]
LA = SAMPLES["png-LA"]
SOF = JPEG.index(b"\xff\xc0")
FRAMES = [of(picture(seed=seed)) for seed in (1, 2)]
WEBP_VP8X = SAMPLES["webp-RGBA"]
TIFF = SAMPLES["tiff-RGB"]

BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "text": (b"patient,slide\n1,2\n" * 20, "not-an-image"),
    "zeros": (bytes(5000), "not-an-image"),
    "gif": (saved(of(RGB), "GIF"), "not-an-image"),
    "jpeg half": (JPEG[: len(JPEG) // 2], "truncated"),
    "jpeg half, end marker put back": (JPEG[: len(JPEG) // 2] + b"\xff\xd9", "truncated"),
    "jpeg without end": (JPEG[:-2], "truncated"),
    "jpeg with noughts for its second half": (JPEG[: -len(JPEG) // 2] + bytes(600), "truncated"),
    "jpeg header only": (JPEG[:SOF], "corrupt"),
    "jpeg of noughts": (resized(JPEG, SOF + 5, ">HH", 0, 0), "corrupt"),
    "jpeg bomb": (resized(JPEG, SOF + 5, ">HH", 65500, 65500), "too-many-pixels"),
    "jpeg cmyk": (saved(of(RGB).convert("CMYK"), "JPEG"), "unsupported"),
    "png half": (PNG[: len(PNG) // 2], "truncated"),
    "png without end": (PNG[:-12], "truncated"),
    "png signature": (PNG[:8], "truncated"),
    "png flipped bit": (PNG[:200] + bytes([PNG[200] ^ 4]) + PNG[201:], "corrupt"),
    "png without pixels": (PNG[:33] + chunk(b"IEND", b""), "corrupt"),
    "png with half the rows": (rechunked(PNG, pixel_stream(PNG)[: HEIGHT * 50]), "corrupt"),
    "png with alpha, half the rows": (rechunked(LA, pixel_stream(LA)[:900]), "truncated"),
    "png with alpha, a row too many": (rechunked(LA, pixel_stream(LA) + bytes(91)), "truncated"),
    "png of noughts": (png_of(0, 5), "corrupt"),
    "png bomb": (png_of(60_000, 60_000), "too-many-pixels"),
    "png strip": (png_of(1_000_000, 1), "too-many-pixels"),
    "png with 3 bits": (png(struct.pack(">IIBBBBB", 9, 9, 3, 0, 0, 0, 0), b""), "corrupt"),
    "png animated": (
        saved(FRAMES[0], "PNG", save_all=True, append_images=[FRAMES[1]]),
        "multi-frame",
    ),
    "webp animated": (
        saved(FRAMES[0], "WEBP", save_all=True, append_images=[FRAMES[1]]),
        "multi-frame",
    ),
    "webp half": (SAMPLES["webp-lossy"][:100], "truncated"),
    "webp bomb": (resized(WEBP_VP8X, 24, "<II", 0x003FFF, 0x3FFF), "too-many-pixels"),
    "webp damaged": (SAMPLES["webp-lossless"][:25] + bytes(400), "truncated"),
    "bmp half": (SAMPLES["bmp-RGB"][:-1000], "truncated"),
    "bmp header": (SAMPLES["bmp-RGB"][:20], "truncated"),
    "bmp bomb": (resized(SAMPLES["bmp-RGB"], 18, "<ii", 50_000, -50_000), "too-many-pixels"),
    "bmp run-length": (resized(SAMPLES["bmp-P"], 28, "<HI", 8, 1), "unsupported"),
    "tiff half": (TIFF[: len(TIFF) // 2], "truncated"),
    "tiff pages": (
        saved(FRAMES[0], "TIFF", save_all=True, append_images=[FRAMES[1]]),
        "multi-frame",
    ),
    "tiff jpeg": (saved(of(RGB), "TIFF", compression="jpeg"), "unsupported"),
    "tiff float": (saved(of(GREY.astype(np.float32)), "TIFF"), "unsupported"),
    "tiff 32 bit": (saved(of(GREY.astype(np.int32)), "TIFF"), "unsupported"),
    "tiff cmyk": (saved(of(RGB).convert("CMYK"), "TIFF"), "unsupported"),
    "tiff signature": (TIFF[:4], "corrupt"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_with_their_reason(name: str) -> None:
    data, reason = BAD[name]
    with pytest.raises(ImageError) as caught:
        decode(data, limits=CROP)
    assert caught.value.reason == reason
    assert str(caught.value).startswith(f"{reason}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("colour", [2, 6])
def test_a_bomb_in_the_pixel_stream_is_not_unpacked(colour: int) -> None:
    header = struct.pack(">IIBBBBB", 20, 20, 8, colour, 0, 0, 0)
    data = png(header, bytes(200 * 2**20))
    tracemalloc.start()
    image, reason = attempt(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reason == "truncated" or image.shape == (20, 20, 3)
    assert peak < 2 * 2**20


@pytest.mark.parametrize("name", SAMPLES)
def test_no_beginning_of_a_file_passes_for_the_whole(name: str) -> None:
    data = SAMPLES[name]
    whole = decode(data)
    for length in range(0, len(data), 1 + len(data) // 400):
        part, reason = attempt(data[:length])
        if part is None:
            assert reason in REASONS
        else:  # only bytes after the pixels were cut
            np.testing.assert_array_equal(part, whole)


@pytest.mark.parametrize("name", [name for name in SAMPLES if "png" in name])
def test_a_damaged_png_is_refused_and_nothing_is_said_about_it(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    data = SAMPLES[name]
    whole = decode(data)
    rng = random.Random(1)
    for _ in range(300):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        image, _ = attempt(bytes(damaged))
        assert image is None or np.array_equal(image, whole)
    assert capfd.readouterr().err == ""


def test_a_damaged_deflate_tiff_is_refused() -> None:
    data = SAMPLES["tiff-deflate"]
    for at in range(10, 2000, 7):  # inside the strip
        damaged = bytearray(data)
        damaged[at] ^= 16
        with pytest.raises(ImageError):
            decode(bytes(damaged))


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


def mutated(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    at = rng.randrange(len(out))
    match rng.randrange(6):
        case 0:
            del out[at:]
        case 1:
            out[at] ^= 1 << rng.randrange(8)
        case 2:
            out[at : at + rng.randrange(1, 200)] = bytes(rng.randrange(200))
        case 3:  # the header, where sizes and offsets are
            out[rng.randrange(min(64, len(out)))] = rng.choice((0, 1, 127, 128, 255))
        case 4:
            out[at:at] = rng.randbytes(rng.randrange(1, 9))
        case 5:
            at = rng.randrange(max(1, len(out) - 4))
            out[at : at + 4] = struct.pack(
                rng.choice("<>") + "I", rng.choice((0, 2**31, 2**32 - 1))
            )
    whole = bytes(out)
    return with_right_checksums(whole) if data[:4] == b"\x89PNG" and rng.random() < 0.5 else whole


def fuzz(name: str, rounds: int) -> None:
    rng = random.Random(f"fuzz {name}")
    limits = Limits(max_bytes=2**20, max_pixels=2**18, max_side=2**12)
    for _ in range(rounds):
        image, reason = attempt(mutated(SAMPLES[name], rng), limits)
        if image is None:
            assert reason in REASONS
        else:
            assert image.dtype == np.uint8
            assert image.ndim == 3
            assert image.shape[2] == 3
            assert 0 < image.shape[0] * image.shape[1] <= limits.max_pixels


@pytest.mark.parametrize("name", SAMPLES)
def test_mutated_files_give_a_picture_or_an_image_error(name: str) -> None:
    fuzz(name, 300)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLES)
def test_many_mutated_files_give_a_picture_or_an_image_error(name: str) -> None:
    import resource

    fuzz(name, 1000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fuzz(name, 20_000)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100 * 1024  # KiB
