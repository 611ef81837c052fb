"""Image bytes to pixels, for files nobody has looked at: every outcome is an RGB array or a BadImage with a reason.

Plain JPEG goes through libjpeg-turbo directly (bit-identical to Pillow, 10 % faster). Everything else, and every JPEG
that the direct way refuses, goes through Pillow, limited to the formats below and checked by its header before any
pixel is decoded, so that a small file cannot ask for a huge image.
"""

from __future__ import annotations

import io
import math
import re
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin, features

from dinov3.data.errors import BadImage, DataError
from dinov3.data.signatures import described, scans_in

if TYPE_CHECKING:
    from dinov3.config.run_config import RunConfig
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
# Pillow turns a TIFF itself, in some versions before it tells the size and in others after.
HEADER_TELLS = tuple(name for name in FORMATS if name != TiffImagePlugin.TiffImageFile.format)
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
ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")  # modes
SIDEWAYS = (5, 6, 7, 8)  # its values that exchange height and width
PHOTOMETRIC, WHITE_IS_ZERO, BITS, NO_DATA = 262, 0, 258, 42113  # TIFF tags; the last is GDAL's
# A scan of a progressive JPEG goes over every pixel: 3.8 ns each (0.24 s at 64 million). Encoders write about ten.
MOST_SCANS, SCANS_OF_LARGEST = 1000, 16

# What decoders raise on damaged files. Anything else is a bug here and must be seen.
DAMAGED = (
    *(OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, AttributeError),
    *(ArithmeticError, MemoryError, RuntimeError, struct.error, zlib.error, Image.DecompressionBombError),
)


@dataclass(frozen=True)
class Reading:
    """How images are read: the keys ``data.max_pixels`` and ``data.value_range``."""

    max_pixels: int = MAX_PIXELS
    value_range: tuple[float, float] | None = None  # (black, white) of images of more than 8 bits a value

    @classmethod
    def from_config(cls, cfg: RunConfig) -> Reading:
        low_high = cfg.data.value_range
        return cls(cfg.data.max_pixels, None if low_high is None else (low_high[0], low_high[1]))


USUAL = Reading()


def read_image(source: Source, index: int, reading: Reading = USUAL) -> Pixels:
    """The image at ``index`` as ``[H, W, C]`` uint8, whatever way its source stores it. Raises BadImage."""
    return to_pixels(read_stored(source, index), reading)


def read_stored(source: Source, index: int) -> Stored:
    """The image at ``index`` as its source stores it. Raises BadImage."""
    try:
        return source.read(index)
    except OSError as error:  # its words without the path, which every message names already
        raise BadImage(f"{type(error).__name__}: {error.strerror or error}") from error


def to_pixels(stored: Stored, reading: Reading = USUAL) -> Pixels:
    """``[H, W, C]`` uint8 of what a source stores. Raises BadImage."""
    if isinstance(stored, bytes):
        return decode(stored, reading)
    if stored.dtype != np.uint8 or stored.ndim != 3:
        raise BadImage(f"the source gave {stored.dtype} {stored.shape}, not uint8 [H, W, C]")
    check_size(stored.shape[1], stored.shape[0], reading.max_pixels)
    return stored


def size_of(stored: Stored, reading: Reading = USUAL) -> tuple[int, int]:
    """(height, width) of what ``to_pixels`` gives, from the header alone where it can be. Raises BadImage."""
    try:
        if not isinstance(stored, bytes):
            height, width = to_pixels(stored, reading).shape[:2]
            return height, width
        if stored[:3] == b"\xff\xd8\xff":
            height, width = simplejpeg.decode_jpeg_header(stored)[:2]
            turned = _jpeg_orientation(stored) in SIDEWAYS
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(io.BytesIO(stored), formats=HEADER_TELLS) as image:
                    (width, height), turned = image.size, _orientation(image) in SIDEWAYS
    except DAMAGED:  # what is unusual, and what is none: only decoding tells
        height, width = to_pixels(stored, reading).shape[:2]
        return height, width
    check_size(width, height, reading.max_pixels)
    return (width, height) if turned else (height, width)


def kind_of(stored: Stored) -> str:
    """Format and colour mode of what ``to_pixels`` can read: ``JPEG RGB``, ``PNG I;16``, ``TIFF RGB 16 bit``, ``pixels``."""
    if not isinstance(stored, bytes):
        return "pixels"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(stored), formats=FORMATS) as image:
                return f"{image.format} {image.mode}{' 16 bit' if is_deep_colour(image) else ''}"
    except DAMAGED:
        return "JPEG"  # the one format that is also read without Pillow


def decode(data: bytes, reading: Reading = USUAL) -> Pixels:
    """Encoded bytes to ``[H, W, 3]`` uint8 RGB, upright, first frame. Raises BadImage.

    Transparency lies on BACKGROUND; 16-bit values are scaled, not clipped; float and 32-bit TIFFs are scaled by their
    own range. ``reading.value_range`` replaces both.
    """
    if not data:
        raise BadImage("the file is empty")
    if len(data) > MAX_BYTES:
        raise BadImage(f"{len(data)} bytes, more than {MAX_BYTES}")
    pixels = _decode_jpeg(data, reading) if data[:3] == b"\xff\xd8\xff" else None
    return pixels if pixels is not None else _decode_with_pillow(data, reading)


def stored_values(data: bytes) -> tuple[float, float, float]:
    """(least value, largest value, mean opacity) of what Pillow reads; not a number where there are only 8 bits, or no
    alpha. Of colours of 16 bits Pillow keeps the upper 8. Raises BadImage.
    """
    low = high = opacity = math.nan
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                check_size(*image.size, Image.MAX_IMAGE_PIXELS or MAX_PIXELS)
                deep = is_deep_colour(image)
                if is_gray_of_many_bits(image.mode) or deep:
                    values = np.asarray(image).astype(np.float64) * (257 if deep else 1)
                    low, high = float(np.nanmin(values)), float(np.nanmax(values))
                if image.mode in ALPHA or "transparency" in image.info:
                    opacity = float(np.asarray(image.convert("RGBA").getchannel("A")).mean() / 255)
    except DAMAGED as error:
        raise BadImage(_reason(data, error)) from error
    return low, high, opacity


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


def check_size(width: int, height: int, max_pixels: int = MAX_PIXELS) -> None:
    """Raise BadImage for sizes that are an attack or an accident. ``max_pixels``: the key ``data.max_pixels``."""
    if min(width, height) < 1:
        raise BadImage(f"{width}x{height} pixels")
    if width * height > max_pixels:
        raise BadImage(
            f"{width}x{height}: more than {max_pixels / 10**6:g} million pixels; data.max_pixels allows them"
        )
    if max(width, height) > MAX_SIDE * max(1.0, max_pixels / MAX_PIXELS):
        raise BadImage(f"{width}x{height}: a side above {MAX_SIDE}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadImage(f"{width}x{height}: more than {MAX_ASPECT} times as long as wide")


def check_scans(data: bytes, pixels: int, max_pixels: int = MAX_PIXELS) -> None:
    """Raise BadImage for a JPEG (or JPEGs in a TIFF) whose scans, over ``pixels`` each, are more work than an image is."""
    scans = scans_in(data)
    if scans > MOST_SCANS or scans * pixels > SCANS_OF_LARGEST * max_pixels:
        raise BadImage(f"{scans} scans of {pixels} pixels: more work than an image is; it is made to hold up readers")


def _decode_jpeg(data: bytes, reading: Reading) -> Pixels | None:
    """None when this is not a JPEG that libjpeg-turbo takes without complaint: Pillow then decides."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    check_size(width, height, reading.max_pixels)
    check_scans(data, width * height, reading.max_pixels)
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
    if orientation in SIDEWAYS:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _decode_with_pillow(data: bytes, reading: Reading) -> Pixels:
    try:
        with warnings.catch_warnings():  # Pillow warns about what is judged here
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.format in ("JPEG", "TIFF", "MPO"):
                    check_scans(data, _pixels_of_a_tile(image), reading.max_pixels)
                return pixels_of(image, reading)
    except BadImage:
        raise
    except DAMAGED as error:
        raise BadImage(_reason(data, error, reading.max_pixels)) from error


def _reason(data: bytes, error: Exception, max_pixels: int = MAX_PIXELS) -> str:
    """What is wrong with a file that Pillow refused; its own words name an address in memory."""
    if isinstance(error, Image.DecompressionBombError):
        return _too_large(error, max_pixels)
    what = described(data)
    unknown = isinstance(error, UnidentifiedImageError)
    if what.startswith(("a JPEG of", "a lossless JPEG", "a hierarchical JPEG")) or (unknown and what[:7] == "TIFF of"):
        return f"{what}: of this format other kinds are read"  # nothing is broken
    if unknown:
        also = f"; it is {what}" if what else ""
        return f"UnidentifiedImageError: not an image in one of {', '.join(FORMATS)}{also}"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _too_large(error: Image.DecompressionBombError, max_pixels: int) -> str:
    """Pillow opens none above twice its MAX_IMAGE_PIXELS, the most that ``data.max_pixels`` can be; its words have the pixels."""
    most, found = 2 * (Image.MAX_IMAGE_PIXELS or 0), re.search(r"\d+", str(error))
    pixels = int(found[0]) if found else most
    said = f"{pixels / 10**6:.0f} million pixels: more than {max_pixels / 10**6:g} million"
    return f"{said}; data.max_pixels allows at most {most // 10**6} million: scale it down"


def _pixels_of_a_tile(image: ImageFile.ImageFile) -> int:
    """Pixels of the largest part that is decoded at once."""
    width, height = image.size
    boxes = [tile[1] for tile in image.tile or ()]
    return max([(box[2] - box[0]) * (box[3] - box[1]) for box in boxes if box], default=width * height)


def pixels_of(image: Image.Image, reading: Reading = USUAL) -> Pixels:
    """``[H, W, 3]`` uint8 RGB of an opened Pillow image of any mode, upright. Raises BadImage for an absurd size."""
    check_size(*image.size, reading.max_pixels)
    return upright(_to_rgb(image, reading.value_range), _orientation(image))


def _to_rgb(image: Image.Image, value_range: tuple[float, float] | None) -> Pixels:
    """Pixels ``[H, W, 3]`` of the first frame of an opened image of any mode."""
    mode = image.mode
    if is_gray_of_many_bits(mode):
        inverted = _is_negative(image)
        values, low, high = _values_of(image)
        gray = _scaled(values, *(value_range or (low, high)))
        return _gray(255 - gray if inverted else gray)
    deep = value_range if is_deep_colour(image) else None
    if mode in ALPHA or "transparency" in image.info:
        rgba = image.convert("RGBA")
        page = Image.new("RGBA", image.size, (BACKGROUND, BACKGROUND, BACKGROUND, 255))
        pixels = np.array(Image.alpha_composite(page, rgba).convert("RGB"))
    else:
        pixels = np.array(image.convert("RGB"))
    if deep is not None:  # of 16 bits Pillow keeps the upper 8
        return np.rint(_scaled(pixels.astype(np.float64) * 257, *deep).clip(0, 255)).astype(np.uint8)
    return pixels


def is_gray_of_many_bits(mode: str) -> bool:
    """Modes of one channel that hold more than 8 bits: I;16 in both byte orders, I, F."""
    return mode.startswith("I") or mode == "F"


def is_deep_colour(image: Image.Image) -> bool:
    """Whether an opened image has several channels of 16 bits, of which Pillow keeps the upper 8. Before it is loaded."""
    return not is_gray_of_many_bits(image.mode) and ";16" in _raw_mode(image)


def _raw_mode(image: Image.Image) -> str:
    """How the file's values are laid out, in Pillow's words; they end in ``;I`` where it turns negatives itself. Empty for
    an image that is of no file."""
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    arguments = tiles[0][3] if tiles else ""
    return arguments if isinstance(arguments, str) else str((arguments or ("",))[0])


def _tag(image: Image.Image, tag: int) -> Any:
    return image.tag_v2.get(tag) if isinstance(image, TiffImagePlugin.TiffImageFile) else None


def _is_negative(image: Image.Image) -> bool:
    """Whether 0 is white, as in DICOM's MONOCHROME1; Pillow sees to it itself for 8 bits only."""
    return bool(_tag(image, PHOTOMETRIC) == WHITE_IS_ZERO) and not _raw_mode(image).endswith(";I")


def _values_of(image: Image.Image) -> tuple[NDArray[np.float64], float, float]:
    """(values ``[H, W]``, what is black, what is white) of gray of more than 8 bits. Raises BadImage."""
    bits, no_data = _tag(image, BITS), _tag(image, NO_DATA)
    values = np.asarray(image).astype(np.float64)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return values, 0.0, 4095.0 if bits in (12, (12,)) else 65535.0
    known = values[values != _number(no_data)] if no_data is not None else values
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    if not np.isfinite([low, high]).all():
        raise BadImage("the image has values that are not finite")
    return values, low, high


def _number(text: Any) -> float:
    try:
        return float(str(text).strip().strip("\0"))
    except ValueError:
        return math.nan


def _scaled(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """``low`` to 0, ``high`` to 255."""
    return (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)


def _gray(values: NDArray[np.float64]) -> Pixels:
    if not np.isfinite(values).all():
        raise BadImage("the image has values that are not finite")
    gray = np.rint(values.clip(0, 255)).astype(np.uint8)
    return np.repeat(gray[:, :, None], 3, axis=2)
