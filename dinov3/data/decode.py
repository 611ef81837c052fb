"""Image bytes to pixels, for files nobody has looked at: every outcome is an RGB array or a BadImage with a reason.

Plain JPEG goes through libjpeg-turbo directly (bit-identical to Pillow, 10 % faster). Everything else, and every JPEG
that the direct way refuses, goes through Pillow, limited to the formats below and checked by its header before any
pixel is decoded, so that a small file cannot ask for a huge image.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin, features

from dinov3.data.errors import BadImage, DataError

if TYPE_CHECKING:
    from dinov3.data.sources.source import Source

Pixels = NDArray[np.uint8]  # [H, W, C]
Stored = bytes | Pixels  # as a source keeps an image

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # a Pillow before 11.3 does not know the word
    AVIF = bool(features.check("avif"))
# No EPS, PDF or SVG: reading them runs programs. Naming the plugins registers the two that Pillow loads late.
FORMATS = (
    *("JPEG", "PNG", "GIF", "BMP", TiffImagePlugin.TiffImageFile.format, WebPImagePlugin.WebPImageFile.format),
    *(["AVIF"] if AVIF else []),
)
# How files of these formats are called: what a folder or a tar is searched for.
SUFFIXES = (
    *(b".jpg", b".jpeg", b".jpe", b".jfif", b".png", b".webp", b".tif", b".tiff", b".gif", b".bmp"),
    *([b".avif"] if AVIF else []),
)
MAX_BYTES = 256 * 2**20
MAX_PIXELS = 64 * 10**6
MAX_SIDE = 20_000
MAX_ASPECT = 50
BACKGROUND = 255  # what shows through transparent pixels: white, as on a page
ORIENTATION = 0x0112  # the EXIF tag

# What decoders raise on damaged files. Anything else is a bug here and must be seen.
DAMAGED = (
    *(OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, AttributeError),
    *(ArithmeticError, MemoryError, RuntimeError, struct.error, zlib.error, Image.DecompressionBombError),
)


def read_image(source: Source, index: int) -> Pixels:
    """The image at ``index`` as ``[H, W, C]`` uint8, whatever way its source stores it. Raises BadImage."""
    return to_pixels(read_stored(source, index))


def read_stored(source: Source, index: int) -> Stored:
    """The image at ``index`` as its source stores it. Raises BadImage."""
    try:
        return source.read(index)
    except OSError as error:  # its words without the path, which every message names already
        raise BadImage(f"{type(error).__name__}: {error.strerror or error}") from error


def to_pixels(stored: Stored) -> Pixels:
    """``[H, W, C]`` uint8 of what a source stores. Raises BadImage."""
    if isinstance(stored, bytes):
        return decode(stored)
    if stored.dtype != np.uint8 or stored.ndim != 3:
        raise BadImage(f"the source gave {stored.dtype} {stored.shape}, not uint8 [H, W, C]")
    check_size(stored.shape[1], stored.shape[0])
    return stored


def kind_of(stored: Stored) -> str:
    """Format and colour mode of what ``to_pixels`` can read: ``JPEG RGB``, ``PNG I;16``, ``pixels``."""
    if not isinstance(stored, bytes):
        return "pixels"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(stored), formats=FORMATS) as image:
                return f"{image.format} {image.mode}"
    except DAMAGED:
        return "JPEG"  # the one format that is also read without Pillow


def decode(data: bytes) -> Pixels:
    """Encoded bytes to ``[H, W, 3]`` uint8 RGB, upright, first frame. Raises BadImage.

    Transparency lies on BACKGROUND; 16-bit values are scaled, not clipped; float and 32-bit TIFFs are scaled by their
    own range.
    """
    if not data:
        raise BadImage("the file is empty")
    if len(data) > MAX_BYTES:
        raise BadImage(f"{len(data)} bytes, more than {MAX_BYTES}")
    pixels = _decode_jpeg(data) if data[:3] == b"\xff\xd8\xff" else None
    return pixels if pixels is not None else _decode_with_pillow(data)


def fit_channels(pixels: Pixels, channels: int) -> Pixels:
    """``pixels [H, W, C]`` with the number of channels the model takes: gray is repeated, RGB becomes luma (BT.601).

    Raises DataError for any other difference: no image of this source can be used.
    """
    have = pixels.shape[2]
    if have == channels:
        return pixels
    if have == 1 and channels == 3:
        return np.repeat(pixels, 3, axis=2)
    if have == 3 and channels == 1:
        return np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None].copy()
    raise DataError(f"the images have {have} channels, student.in_chans is {channels}: set student.in_chans={have}")


def check_size(width: int, height: int) -> None:
    """Raise BadImage for sizes that are an attack or an accident."""
    if min(width, height) < 1:
        raise BadImage(f"{width}x{height} pixels")
    if width * height > MAX_PIXELS:
        raise BadImage(f"{width}x{height}: more than {MAX_PIXELS // 10**6} million pixels")
    if max(width, height) > MAX_SIDE:
        raise BadImage(f"{width}x{height}: a side above {MAX_SIDE}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadImage(f"{width}x{height}: more than {MAX_ASPECT} times as long as wide")


def _decode_jpeg(data: bytes) -> Pixels | None:
    """None when this is not a JPEG that libjpeg-turbo takes without complaint: Pillow then decides."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    check_size(width, height)
    if colours not in ("Gray", "YCbCr", "RGB"):
        return None
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:
        return None
    return upright(pixels, _jpeg_orientation(data))


def _jpeg_orientation(data: bytes) -> int:
    if data.find(b"Exif\0\0", 0, 2**16) < 0:  # a photograph without EXIF is the common case
        return 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _orientation(Image.open(io.BytesIO(data), formats=("JPEG",)))
    except DAMAGED:
        return 1  # the pixels are good, only the header is not


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except DAMAGED:
        return 1  # a damaged EXIF block says nothing
    return value if value in range(1, 9) else 1


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """``pixels [H, W, C]`` turned as the EXIF orientation (1 to 8) asks."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _decode_with_pillow(data: bytes) -> Pixels:
    try:
        with warnings.catch_warnings():  # Pillow warns about what is judged here
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return pixels_of(image)
    except BadImage:
        raise
    except UnidentifiedImageError as error:  # Pillow's own words name an address in memory
        raise BadImage(f"UnidentifiedImageError: not an image in one of {', '.join(FORMATS)}") from error
    except DAMAGED as error:
        raise BadImage(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error


def pixels_of(image: Image.Image) -> Pixels:
    """``[H, W, 3]`` uint8 RGB of an opened Pillow image of any mode, upright. Raises BadImage for an absurd size."""
    check_size(*image.size)
    return upright(_to_rgb(image), _orientation(image))


def _to_rgb(image: Image.Image) -> Pixels:
    """Pixels ``[H, W, 3]`` of the first frame of an opened image of any mode."""
    mode = image.mode
    if mode.startswith("I;16"):
        return _gray(np.asarray(image).astype(np.float64) / 257)
    if mode == "I":
        values = np.asarray(image).astype(np.float64)
        return _gray(values / 257) if image.format == "PNG" else _gray(_by_range(values))
    if mode == "F":
        return _gray(_by_range(np.asarray(image).astype(np.float64)))
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        page = Image.new("RGBA", image.size, (BACKGROUND, BACKGROUND, BACKGROUND, 255))
        return np.array(Image.alpha_composite(page, rgba).convert("RGB"))
    return np.array(image.convert("RGB"))


def _by_range(values: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise BadImage("the image has values that are not finite")
    return (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)


def _gray(values: NDArray[np.float64]) -> Pixels:
    gray = np.rint(values.clip(0, 255)).astype(np.uint8)
    return np.repeat(gray[:, :, None], 3, axis=2)
