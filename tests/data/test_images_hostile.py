"""Files nobody has vouched for: broken, cut short, too large, mutated at random."""

from __future__ import annotations

import random
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from fertiray.bench.chaos.bombs import (
    EMPTY_BLOCKS,
    HEIGHT,
    bombs,
    chunk,
    largest,
    packed_noughts,
    picture,
    png,
    saved,
)
from fertiray.bench.chaos.mutate import mutated, samples
from fertiray.data.images import CROP, DEFAULT, REASONS, ImageError, Limits, decode

# Only pytest shows them: it resets the filter that fertiray.data.images sets.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")


def attempt(data: bytes, limits: Limits = DEFAULT) -> tuple[np.ndarray | None, str]:
    try:
        return decode(data, limits=limits), ""
    except ImageError as error:
        return None, error.reason


RGB = picture()
GREY = np.ascontiguousarray(RGB[:, :, 1])
SAMPLES = samples()


def resized(data: bytes, at: int, code: str, width: int, height: int) -> bytes:
    packed = struct.pack(code, width, height)
    return data[:at] + packed + data[at + len(packed) :]


def png_of(width: int, height: int) -> bytes:
    return png(struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), zlib.compress(b"\0" * 99))


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
FRAMES = [Image.fromarray(picture(seed=seed)) for seed in (1, 2)]
WEBP_VP8X = SAMPLES["webp-RGBA"]
TIFF = SAMPLES["tiff-RGB"]

BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "text": (b"patient,slide\n1,2\n" * 20, "not-an-image"),
    "zeros": (bytes(5000), "not-an-image"),
    "gif": (saved(RGB, "GIF"), "not-an-image"),
    "jpeg half": (JPEG[: len(JPEG) // 2], "truncated"),
    "jpeg half, end marker put back": (JPEG[: len(JPEG) // 2] + b"\xff\xd9", "truncated"),
    "jpeg without end": (JPEG[:-2], "truncated"),
    "jpeg with noughts for its second half": (JPEG[: -len(JPEG) // 2] + bytes(600), "truncated"),
    "jpeg header only": (JPEG[:SOF], "corrupt"),
    "jpeg of noughts": (resized(JPEG, SOF + 5, ">HH", 0, 0), "corrupt"),
    "jpeg bomb": (resized(JPEG, SOF + 5, ">HH", 65500, 65500), "too-many-pixels"),
    "jpeg cmyk": (saved(Image.fromarray(RGB).convert("CMYK"), "JPEG"), "unsupported"),
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
    "png with 3 bits": (
        png(struct.pack(">IIBBBBB", 9, 9, 3, 0, 0, 0, 0), zlib.compress(b"")),
        "corrupt",
    ),
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
    "tiff jpeg": (saved(RGB, "TIFF", compression="jpeg"), "unsupported"),
    "tiff float": (saved(GREY.astype(np.float32), "TIFF"), "unsupported"),
    "tiff 32 bit": (saved(GREY.astype(np.int32), "TIFF"), "unsupported"),
    "tiff cmyk": (saved(Image.fromarray(RGB).convert("CMYK"), "TIFF"), "unsupported"),
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
    data = png(header, packed_noughts(200 * 2**20))
    tracemalloc.start()
    image, reason = attempt(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert image is None
    assert reason == "corrupt"  # far more than the picture has
    assert peak < 2 * 2**20


def test_a_stream_of_noughts_is_zlibs() -> None:
    assert zlib.decompress(packed_noughts(3 * 2**20)) == bytes(3 * 2**20)
    assert zlib.decompress(EMPTY_BLOCKS) == b""


@pytest.mark.parametrize("name", bombs())
def test_no_file_takes_more_time_than_the_largest_picture(name: str) -> None:
    """Unchecked, the worst of them takes 9 s: strips that share their bytes, 2 GiB of pixels."""

    def seconds(data: bytes) -> float:
        began = time.process_time()
        attempt(data, CROP)
        return time.process_time() - began

    ordinary = max(seconds(data) for data in largest().values())
    assert seconds(bombs()[name]) < max(0.5, 3 * ordinary)


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
