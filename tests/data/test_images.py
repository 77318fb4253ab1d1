"""The decode path: every format and mode against Pillow, and its stated conventions."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image

from fertiray.data.images import (
    CROP,
    DEFAULT,
    ImageError,
    Limits,
    decode,
    encode_png,
    image_digest,
)

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


RGB = picture()
GREY = np.ascontiguousarray(RGB[:, :, 1])
ALPHA = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
RGBA = np.dstack([RGB, ALPHA])
GREY16 = (GREY.astype(np.uint16) << 8) + np.arange(WIDTH, dtype=np.uint16)
RGB16 = (RGB.astype(np.uint16) << 8) + 77


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def of(array: np.ndarray) -> Image.Image:
    return Image.fromarray(array)


def by_opencv(suffix: str, array: np.ndarray) -> bytes:
    ok, data = cv2.imencode(suffix, array)
    assert ok
    return data.tobytes()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(ihdr: bytes, raw: bytes, *before: bytes) -> bytes:
    data = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", ihdr), *before]
    return b"".join([*data, chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")])


def interlaced_png(rgb: np.ndarray) -> bytes:
    """Adam7 by the PNG specification, section 8.2, with no row filter."""
    starts = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)]
    starts += [(0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = []
    for x, y, dx, dy in starts:
        rows += [b"\0" + row.tobytes() for row in rgb[y::dy, x::dx] if row.size]
    height, width, channels = rgb.shape
    colour = {3: 2, 4: 6}[channels]
    return png(struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 1), b"".join(rows))


PALETTE = of(RGB).quantize(32)

PLAIN = {
    "png-1": saved(of(GREY).convert("1"), "PNG"),
    "png-L": saved(of(GREY), "PNG"),
    "png-P": saved(PALETTE, "PNG"),
    "png-P-4bit": saved(of(RGB).quantize(9), "PNG", bits=4),
    "png-RGB": saved(of(RGB), "PNG"),
    "png-RGB-optimised": saved(of(RGB), "PNG", optimize=True),
    "png-interlaced": interlaced_png(RGB),
    "jpeg-RGB": saved(of(RGB), "JPEG", quality=90),
    "jpeg-RGB-444": saved(of(RGB), "JPEG", quality=95, subsampling=0),
    "jpeg-progressive": saved(of(RGB), "JPEG", progressive=True),
    "jpeg-L": saved(of(GREY), "JPEG"),
    "bmp-1": saved(of(GREY).convert("1"), "BMP"),
    "bmp-L": saved(of(GREY), "BMP"),
    "bmp-P": saved(PALETTE, "BMP"),
    "bmp-RGB": saved(of(RGB), "BMP"),
    "webp-lossy": saved(of(RGB), "WEBP", quality=80),
    "webp-lossless": saved(of(RGB), "WEBP", lossless=True),
    "tiff-1": saved(of(GREY).convert("1"), "TIFF"),
    "tiff-L": saved(of(GREY), "TIFF"),
    "tiff-P": saved(PALETTE, "TIFF"),
    "tiff-RGB": saved(of(RGB), "TIFF"),
    "tiff-lzw": saved(of(RGB), "TIFF", compression="tiff_lzw"),
    "tiff-deflate": saved(of(RGB), "TIFF", compression="tiff_adobe_deflate"),
    "tiff-packbits": saved(of(RGB), "TIFF", compression="packbits"),
}

TRANSPARENT = {
    "png-LA": (saved(of(np.dstack([GREY, ALPHA])), "PNG"), GREY[:, :, None], ALPHA),
    "png-RGBA": (saved(of(RGBA), "PNG"), RGB, ALPHA),
    "png-RGBA-interlaced": (interlaced_png(RGBA), RGB, ALPHA),
    "png-RGBA-16": (
        by_opencv(".png", np.dstack([RGB16[..., ::-1], ALPHA.astype(np.uint16) * 257])),
        RGB,
        ALPHA,
    ),
    "webp-RGBA": (saved(of(RGBA), "WEBP", lossless=True, exact=True), RGB, ALPHA),
    "tiff-RGBA": (saved(of(RGBA), "TIFF"), RGB, ALPHA),
    "tiff-LA": (saved(of(np.dstack([GREY, ALPHA])), "TIFF"), GREY[:, :, None], ALPHA),
}

GREY_SIXTEEN = {
    "png": saved(of(GREY16), "PNG"),
    "tiff": saved(of(GREY16), "TIFF"),
    "tiff-lzw": saved(of(GREY16), "TIFF", compression="tiff_lzw"),
    "tiff-opencv": by_opencv(".tiff", GREY16),
}


PNG = PLAIN["png-RGB"]


@pytest.mark.parametrize("name", PLAIN)
def test_opaque_images_as_pillow_reads_them(name: str) -> None:
    image = decode(PLAIN[name])
    expected = np.asarray(Image.open(io.BytesIO(PLAIN[name])).convert("RGB"))
    np.testing.assert_array_equal(image, expected)
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable


@pytest.mark.parametrize("name", TRANSPARENT)
def test_transparency_is_composited_over_white(name: str) -> None:
    data, colour, alpha = TRANSPARENT[name]
    share = alpha[:, :, None] / 255.0
    expected = colour * share + 255 * (1 - share)  # the "over" operator on white
    assert np.abs(decode(data) - expected).max() <= 1.0


def test_transparent_palette_and_transparent_colour() -> None:
    for image in (PALETTE, of(RGB), of(GREY)):
        clear = image.getpixel((0, 0))
        picked = np.asarray(image).reshape(HEIGHT, WIDTH, -1) == np.asarray(clear)
        decoded = decode(saved(image, "PNG", transparency=clear))
        expected = np.array(image.convert("RGB"))
        expected[picked.all(axis=2)] = 255
        np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("name", GREY_SIXTEEN)
def test_sixteen_bit_grey_keeps_the_high_byte(name: str) -> None:
    np.testing.assert_array_equal(decode(GREY_SIXTEEN[name]), np.dstack([GREY] * 3))


def test_sixteen_bit_rgb_keeps_the_high_byte() -> None:
    for suffix in (".png", ".tiff"):
        np.testing.assert_array_equal(decode(by_opencv(suffix, RGB16[..., ::-1])), RGB)


@pytest.mark.parametrize("factor", [256, 257])
def test_eight_bit_data_widened_to_sixteen_comes_back(factor: int) -> None:
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16)
    decoded = decode(saved(of(ramp * np.uint16(factor)), "PNG"))
    np.testing.assert_array_equal(decoded[:, :, 0], ramp)


def test_sixteen_bit_tiff_with_white_as_zero_is_inverted() -> None:
    data = saved(of(GREY16), "TIFF", tiffinfo={262: 0})
    np.testing.assert_array_equal(decode(data)[:, :, 0], 255 - GREY)


def test_big_endian_and_tiled_tiff() -> None:
    big = Image.frombytes("I;16B", (WIDTH, HEIGHT), GREY16.astype(">u2").tobytes())
    np.testing.assert_array_equal(decode(saved(big, "TIFF"))[:, :, 0], GREY)
    image = picture(64, 64)
    tags = {322: 32, 323: 32}
    tiled = saved(of(image), "TIFF", compression="tiff_adobe_deflate", tiffinfo=tags)
    np.testing.assert_array_equal(decode(tiled), image)


def test_exif_orientation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[274] = 6  # turn by 90 degrees
    for kind in ("JPEG", "PNG", "WEBP"):
        assert decode(saved(of(RGB), kind, exif=exif)).shape == RGB.shape


def test_tiff_orientation_is_applied() -> None:
    turned = decode(saved(of(RGB), "TIFF", tiffinfo={274: 6}))
    np.testing.assert_array_equal(turned, np.rot90(RGB, -1))  # 6: rotate 90 degrees clockwise


def test_what_lies_beside_the_pixels_is_ignored() -> None:
    plain = saved(of(RGB), "PNG")
    bomb = chunk(b"zTXt", b"comment\0\0" + zlib.compress(bytes(10**8)))
    damaged = b"\0\0\0\4tEXtabcd\0\0\0\0"  # a wrong checksum, of a text
    for junk in (bomb, damaged):
        np.testing.assert_array_equal(decode(plain[:33] + junk + plain[33:]), RGB)
    for name in ("png-RGB", "jpeg-RGB", "bmp-RGB"):
        np.testing.assert_array_equal(decode(PLAIN[name] + b"trailing"), decode(PLAIN[name]))


def test_error_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ImageError("corrupt", "bad")))
    assert (error.reason, str(error)) == ("corrupt", "corrupt: bad")


def test_the_name_must_not_contradict_the_content() -> None:
    for name in ("a.png", "dir.bmp/b", "noextension", "c.data", None):
        assert decode(PNG, name=name).shape == RGB.shape
    for name in ("a.jpg", "A.TIFF", "x/y.z.bmp"):
        with pytest.raises(ImageError, match=r"wrong-extension: the name ends in .*content is PNG"):
            decode(PNG, name=name)


def test_limits_hold_before_decoding() -> None:
    assert decode(PNG, limits=Limits(len(PNG), WIDTH * HEIGHT, WIDTH)).shape == RGB.shape
    for limits, reason in (
        (Limits(len(PNG) - 1, 10**6, 10**6), "too-many-bytes"),
        (Limits(10**6, WIDTH * HEIGHT - 1, 10**6), "too-many-pixels"),
        (Limits(10**6, 10**6, WIDTH - 1), "too-many-pixels"),
    ):
        with pytest.raises(ImageError) as caught:
            decode(PNG, limits=limits)
        assert caught.value.reason == reason
    assert CROP.max_bytes < DEFAULT.max_bytes


def test_threads_decode_independently() -> None:
    jobs = [name for name in PLAIN for _ in range(20)]
    expected = {name: decode(data) for name, data in PLAIN.items()}
    with ThreadPoolExecutor(8) as pool:
        for name, image in zip(jobs, pool.map(lambda n: decode(PLAIN[n]), jobs), strict=True):
            np.testing.assert_array_equal(image, expected[name])


def test_png_is_lossless_and_the_same_every_time() -> None:
    image = picture(128, 128)
    data = encode_png(image)
    np.testing.assert_array_equal(decode(data, name="crop.png"), image)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), image)
    assert data == encode_png(image.copy())


def test_digest_is_of_the_pixels() -> None:
    digests = {image_digest(decode(PLAIN[n])) for n in ("png-RGB", "bmp-RGB", "tiff-lzw")}
    assert len(digests) == 1
    changed = RGB.copy()
    changed[3, 4, 1] ^= 1
    square = np.zeros((8, 2, 3), np.uint8)
    others = {image_digest(x) for x in (changed, square, square.transpose(1, 0, 2))}
    assert len(digests | others) == 4


@pytest.mark.realdata
def test_real_images_decode(real_data) -> None:
    counts = {}
    for folder in ("hushem", "smids", "hungvuong", "smear_fields"):
        files = sorted(p for p in (real_data / folder).rglob("*") if p.suffix[1:].lower() in KNOWN)
        for file in files[:: 1 + len(files) // 40]:
            image = decode(file.read_bytes(), name=file.name)
            expected = np.asarray(Image.open(file).convert("RGB"))
            np.testing.assert_array_equal(image, expected)
            counts[folder] = counts.get(folder, 0) + 1
    assert min(counts.values()) > 20


KNOWN = ("png", "jpg", "bmp", "webp")
