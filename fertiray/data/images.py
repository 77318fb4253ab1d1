"""Image bytes to pixels: the one decode path, written for files nobody has vouched for.

``decode`` either returns the whole picture or raises ``ImageError`` with a named reason. It never
returns a picture that was only partly decoded, which the usual decoders do without a word:

========  =================  ==============================================================
format    decoder            what is checked besides the decoder's own errors
========  =================  ==============================================================
JPEG      simplejpeg         libjpeg's warnings count as errors (Pillow and OpenCV fill the
                             missing part of a damaged JPEG with grey)
PNG       OpenCV, or Pillow  checksum of every chunk that matters, up to the end chunk; for
                             Pillow also the length of the pixel stream
BMP       Pillow             the pixel array lies inside the file; no run-length coding
WebP      Pillow             the container is as long as it says
TIFF      Pillow             every strip or tile lies inside the file, checksums of deflate;
                             lossless codecs only, since libtiff patches up the others
========  =================  ==============================================================

Size limits are read from the header, before any pixel is decoded.

Conventions, the same for every format:

- 16-bit samples keep their high byte. That is the full range in 256 equal steps, so the same value
  has the same brightness in every image (no stretch per image), and 8-bit data widened by 256 or
  by 257 comes back exactly.
- Transparency is composited over white, the background of a brightfield microscope.
- The EXIF orientation is not applied: positions (``cx, cy``) refer to the pixels as stored. A
  TIFF's own orientation tag is part of how its pixels are laid out, and is.
- Colour profiles are not applied.
"""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

# Pillow warns on stderr about every oddity in a TIFF's tags; what matters becomes an ImageError.
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")

Pixels = npt.NDArray[np.uint8]

REASONS = (
    "empty",
    "too-many-bytes",
    "too-many-pixels",
    "not-an-image",
    "wrong-extension",
    "truncated",
    "corrupt",
    "multi-frame",
    "unsupported",
)

EXTENSIONS = {
    "png": "PNG",
    "jpg": "JPEG",
    "jpeg": "JPEG",
    "jpe": "JPEG",
    "jfif": "JPEG",
    "bmp": "BMP",
    "dib": "BMP",
    "webp": "WebP",
    "tif": "TIFF",
    "tiff": "TIFF",
}


class ImageError(ValueError):
    """An image that cannot be used.

    Attributes:
        reason: one of ``REASONS``.

    ``str(error)`` is the reason and a sentence, fit for the ``error`` column of a reject row.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)  # both, so that it survives pickling
        self.reason = reason

    def __str__(self) -> str:
        return ": ".join(self.args)


@dataclass(frozen=True)
class Limits:
    """What an image may measure before it is decoded.

    Attributes:
        max_bytes: encoded size in bytes.
        max_pixels: width times height.
        max_side: the longer of width and height, in pixels.
    """

    max_bytes: int
    max_pixels: int
    max_side: int


DEFAULT = Limits(max_bytes=256 * 2**20, max_pixels=64_000_000, max_side=16_384)
"""For whole fields: larger than any microscope camera's picture."""

CROP = Limits(max_bytes=8 * 2**20, max_pixels=4_194_304, max_side=4_096)
"""For head crops: at most 4 megapixels, 12 MB once decoded."""


def decode(data: bytes, *, name: str | None = None, limits: Limits = DEFAULT) -> Pixels:
    """The picture in encoded bytes.

    Args:
        data: the file's content: PNG, JPEG, BMP, WebP or TIFF; 8 or 16 bit; grey, RGB, RGBA or
            palette.
        name: the file's name. Where it ends in a known image extension, the content must agree.
        limits: largest size accepted.

    Returns:
        HWC uint8 RGB in [0, 255], C-contiguous and writable.

    Raises:
        ImageError: for anything that is not one whole, readable picture. No other exception.
    """
    kind = _kind(data, name, limits)
    try:
        return _DECODERS[kind](data, limits)
    except ImageError:
        raise
    except Exception as error:  # whatever a codec makes of hostile bytes
        said = " ".join(str(error).split())[:200] or type(error).__name__
        ended = "premature end" in said.lower() or "truncated" in said.lower()
        raise ImageError("truncated" if ended else "corrupt", f"{kind}: {said}") from error


def encode_png(image: Pixels) -> bytes:
    """The image (HWC uint8 RGB) as PNG bytes, the same for the same pixels.

    Every row uses the "up" filter and zlib's level 1, which decodes 1.6 times as fast as a PNG with
    a filter chosen per row, at the same size.
    """
    options = [
        cv2.IMWRITE_PNG_COMPRESSION,
        1,
        cv2.IMWRITE_PNG_FILTER,
        cv2.IMWRITE_PNG_FILTER_UP,
    ]
    ok, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    assert ok
    return data.tobytes()


def image_digest(image: Pixels) -> str:
    """Digest of the pixels and their shape, 32 hex digits: equal for identical pictures only.

    It does not depend on how the picture was encoded, so a crop saved as PNG and as BMP is
    recognised as a duplicate.
    """
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()[:32]


def _kind(data: bytes, name: str | None, limits: Limits) -> str:
    """The format by content, after the checks that need no header."""
    if not data:
        raise ImageError("empty", "the file has no bytes")
    if len(data) > limits.max_bytes:
        raise ImageError("too-many-bytes", f"{len(data)} bytes, limit {limits.max_bytes}")
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        kind = "PNG"
    elif data.startswith(b"\xff\xd8\xff"):
        kind = "JPEG"
    elif data.startswith(b"BM"):
        kind = "BMP"
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        kind = "WebP"
    elif data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        kind = "TIFF"
    else:
        raise ImageError("not-an-image", "the content is not PNG, JPEG, BMP, WebP or TIFF")
    suffix = name.lower().rpartition(".")[2] if name else ""
    if EXTENSIONS.get(suffix, kind) != kind:
        raise ImageError("wrong-extension", f"the name ends in .{suffix}, the content is {kind}")
    return kind


def _check_size(width: int, height: int, limits: Limits) -> None:
    if width <= 0 or height <= 0:
        raise ImageError("corrupt", f"the header says {width} x {height} pixels")
    if width * height > limits.max_pixels or max(width, height) > limits.max_side:
        raise ImageError(
            "too-many-pixels",
            f"{width} x {height} pixels, limit {limits.max_pixels} and {limits.max_side} a side",
        )


# A picture needs a dozen; 2,600 scans of nothing keep a processor busy for seconds.
_MOST_SCANS = 100


def _decode_jpeg(data: bytes, limits: Limits) -> Pixels:
    height, width, colour, _ = simplejpeg.decode_jpeg_header(data)
    _check_size(width, height, limits)
    if colour not in ("Gray", "YCbCr", "RGB"):
        raise ImageError("unsupported", f"{colour} JPEG; save it as RGB")
    scans = data.count(b"\xff\xda")  # within the coded pixels ff is never followed by da
    if scans > _MOST_SCANS:
        raise ImageError("unsupported", f"JPEG of {scans} scans; save it again")
    picture: Pixels = simplejpeg.decode_jpeg(data, "RGB", strict=True)
    return picture


_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PNG_SHORT = 2**20  # bytes of pixels that are unpacked without a look at their number
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


def _decode_png(data: bytes, limits: Limits) -> Pixels:
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise ImageError("truncated" if len(data) < 33 else "corrupt", "PNG without its header")
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    depth, colour, interlaced = data[24], data[25], data[28]
    _check_size(width, height, limits)
    if depth not in _PNG_DEPTHS.get(colour, ()):
        raise ImageError("corrupt", f"PNG with colour type {colour} and {depth} bits")
    chunks = _png_chunks(data)
    # Only what the picture needs reaches the decoder: text, profiles and the like can neither
    # spoil it, nor unpack to gigabytes, nor make it complain.
    whole = data[:8] + b"".join(chunk for _, chunk in chunks)
    names = [name for name, _ in chunks]
    if b"IDAT" not in names:
        raise ImageError("corrupt", "PNG without pixel data")
    stream = [chunk[8:-4] for name, chunk in chunks if name == b"IDAT"]
    expected = _png_bytes(width, height, depth * _PNG_SAMPLES[colour], bool(interlaced))
    packed = sum(map(len, stream))
    if packed > 2 * expected + 4096:
        raise ImageError("corrupt", f"PNG with {packed} bytes of pixel data for {expected}")
    simple = depth == 8 and colour in (0, 2) and b"tRNS" not in names
    # OpenCV unpacks what is there, gigabytes too; of a small picture's stream it cannot be much.
    if not simple or expected > _PNG_SHORT:
        _check_png_stream(b"".join(stream), expected)
    if simple:
        picture = cv2.imdecode(np.frombuffer(whole, np.uint8), cv2.IMREAD_COLOR_RGB)
        if picture is None:
            raise ImageError("corrupt", "PNG whose pixel data cannot be unpacked")
        return np.asarray(picture, np.uint8)
    return _from_pillow(PngImageFile(io.BytesIO(whole)))


def _png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Names and bytes of the chunks a picture is made of, checksums verified, up to IEND."""
    view = memoryview(data)
    chunks: list[tuple[bytes, bytes]] = []
    start = 8
    while start + 12 <= len(data):
        end = start + 12 + int.from_bytes(view[start : start + 4], "big")
        name = data[start + 4 : start + 8]
        if end > len(data):
            break
        if name in (b"acTL", b"fcTL"):
            raise ImageError("multi-frame", "an animated PNG")
        if name in _PNG_KEPT:
            if zlib.crc32(view[start + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
                raise ImageError("corrupt", f"PNG: wrong checksum in chunk {name.decode()}")
            chunks.append((name, data[start:end]))
        if name == b"IEND":
            return chunks
        start = end
    raise ImageError("truncated", "the PNG ends before its end chunk")


def _png_bytes(width: int, height: int, bits: int, interlaced: bool) -> int:
    """Bytes that a picture's zlib stream unpacks to, at so many bits a pixel."""
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    expected = 0
    for x, y, dx, dy in passes:
        columns, rows = -((x - width) // dx), -((y - height) // dy)
        if columns > 0:
            expected += rows * (1 + (columns * bits + 7) // 8)
    return expected


def _check_png_stream(stream: bytes, expected: int) -> None:
    """Raises unless the zlib stream unpacks to exactly the bytes that the picture needs."""
    unpacker = zlib.decompressobj()
    found = len(unpacker.decompress(stream, expected + 1))
    if found != expected or not unpacker.eof:
        raise ImageError("truncated", f"PNG with {found} of {expected} bytes of pixel data")


def _decode_bmp(data: bytes, limits: Limits) -> Pixels:
    (header,) = struct.unpack_from("<I", data, 14) if len(data) >= 26 else (54,)
    if len(data) < (26 if header == 12 else 54):
        raise ImageError("truncated", "the BMP ends within its header")
    (offset,) = struct.unpack_from("<I", data, 10)
    if header == 12:
        width, height, _, bits = struct.unpack_from("<4H", data, 18)
        coding = 0
    else:
        width, height, _, bits, coding = struct.unpack_from("<iiHHI", data, 18)
    _check_size(width, abs(height), limits)
    if coding not in (0, 3):
        raise ImageError("unsupported", "a run-length coded BMP; save it uncompressed")
    needed = offset + (width * bits + 31) // 32 * 4 * abs(height)
    if len(data) < needed:
        raise ImageError("truncated", f"BMP with {len(data)} of {needed} bytes")
    return _from_pillow(BmpImageFile(io.BytesIO(data)))


def _decode_webp(data: bytes, limits: Limits) -> Pixels:
    size = 8 + int.from_bytes(data[4:8], "little")
    if len(data) < max(size, 30):
        raise ImageError("truncated", f"WebP with {len(data)} of {size} bytes")
    # Pillow allocates two canvases on opening, so the size is read here.
    if data[12:16] == b"VP8X":
        if data[20] & 2:
            raise ImageError("multi-frame", "an animated WebP")
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
    elif data[12:16] == b"VP8L":
        packed = int.from_bytes(data[21:25], "little")
        width, height = 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<2H", data, 26))
    _check_size(width, height, limits)
    return _from_pillow(WebPImageFile(io.BytesIO(data)))


# libtiff's JPEG and fax decoders make up what a damaged file lacks, so they are left out.
_TIFF_LOSSLESS = (1, 5, 8, 32946, 32773)  # none, LZW, deflate twice, PackBits
_TIFF_DEFLATE = (8, 32946)


def _decode_tiff(data: bytes, limits: Limits) -> Pixels:
    image = TiffImageFile(io.BytesIO(data))
    _check_size(*image.size, limits)
    tags = image.tag_v2
    coding, bits, sample_format = tags.get(259, 1), tags.get(258, (1,)), tags.get(339, (1,))
    if coding not in _TIFF_LOSSLESS or not {*bits} <= {1, 2, 4, 8, 16} or {*sample_format} != {1}:
        raise ImageError(
            "unsupported",
            f"TIFF with compression {coding}, {bits} bits, sample format {sample_format}; save it "
            "as 8 or 16 bit, uncompressed or with LZW, deflate or PackBits",
        )
    pieces = _tiff_pieces(image)
    if sum(count for _, count in pieces) > len(data):
        raise ImageError("truncated", "TIFF whose strips or tiles are longer than the file")
    room = 8 * limits.max_pixels
    for offset, count in pieces:
        if offset + count > len(data):
            raise ImageError("truncated", f"TIFF with {len(data)} of {offset + count} bytes")
        if coding in _TIFF_DEFLATE:  # libtiff does not look at the checksum at the end
            unpacker = zlib.decompressobj()
            room -= len(unpacker.decompress(data[offset : offset + count], room + 1))
            if room < 0 or not unpacker.eof:
                raise ImageError("truncated", "TIFF: pixel data without their end")
    if _has_second_page(image):
        raise ImageError("multi-frame", "a TIFF of several pages; save one page a file")
    picture = _from_pillow(TiffImageFile(io.BytesIO(data)))
    inverted = image.mode.startswith("I;16") and tags.get(262) == 0  # white is zero
    return 255 - picture if inverted else picture


def _tiff_pieces(image: TiffImageFile) -> list[tuple[int, int]]:
    """Offsets and byte counts of all strips or tiles."""
    tags = image.tag_v2
    offsets, counts = (273, 279) if 273 in tags else (324, 325)
    return list(zip(tags[offsets], tags[counts], strict=True))


def _has_second_page(image: TiffImageFile) -> bool:
    try:
        image.seek(1)
    except EOFError:
        return False
    return True


def _from_pillow(image: ImageFile) -> Pixels:
    """Pixels of an opened Pillow image, in the conventions of the module's docstring."""
    image.load()
    transparent = image.has_transparency_data
    if image.mode.startswith("I;16") and not transparent:
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        raise ImageError("unsupported", f"{image.format} of mode {image.mode}; save it as RGB")
    if transparent:
        white = Image.new("RGBA", image.size, "white")
        return np.array(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))
    return np.array(image.convert("RGB"))


_DECODERS: dict[str, Callable[[bytes, Limits], Pixels]] = {
    "PNG": _decode_png,
    "JPEG": _decode_jpeg,
    "BMP": _decode_bmp,
    "WebP": _decode_webp,
    "TIFF": _decode_tiff,
}
