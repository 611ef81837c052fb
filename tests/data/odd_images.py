"""Files as folders have them: damaged ones, hostile ones, and legal ones that naive readers get wrong."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ROWS, COLUMNS = np.mgrid[0:48, 0:64]
PIXELS = np.stack([4 * COLUMNS, 5 * ROWS, 2 * (ROWS + COLUMNS)], axis=2).astype(np.uint8)  # [48, 64, 3]
PICTURE = Image.fromarray(PIXELS)
GRAY = np.repeat(np.asarray(PICTURE.convert("L"))[:, :, None], 3, axis=2)


@dataclass(frozen=True)
class Odd:
    """A file, and what must come of it: these pixels to within ``tolerance`` on average, or a refusal with this reason."""

    suffix: str
    data: bytes
    pixels: NDArray[Any] | None = None  # [H, W, 3]
    reason: str = ""
    tolerance: float = 0.0


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that claims this size."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(10**5))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in parts
    )


def with_broken_checksum() -> bytes:
    data = bytearray(encoded(PICTURE, "PNG"))
    data[data.index(b"IDAT") + 12] ^= 0xFF
    return bytes(data)


def on_white(alpha: int) -> NDArray[Any]:
    return np.rint(PIXELS * (alpha / 255) + 255 * (1 - alpha / 255))


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def transparent(mode: str, alpha: int) -> Image.Image:
    image = PICTURE.convert(mode)
    image.putalpha(alpha)
    return image


def odd_images() -> dict[str, Odd]:
    """All kinds by name."""
    jpeg, png = encoded(PICTURE, "JPEG", quality=95), encoded(PICTURE, "PNG")
    frames = [PICTURE, Image.new("RGB", (64, 48), "red"), Image.new("RGB", (64, 48), "blue")]
    moving = {"save_all": True, "append_images": frames[1:]}
    sixteen = (np.asarray(PICTURE.convert("L")).astype(np.uint16) * 257).astype(np.uint16)
    floats = np.asarray(PICTURE.convert("L")).astype(np.float32) / 7 - 3
    span = floats.max() - floats.min()
    palette = PICTURE.convert("P", palette=Image.Palette.ADAPTIVE, colors=256)
    bits = PICTURE.convert("1")
    return {
        "empty": Odd("jpg", b"", reason="the file is empty"),
        "a web page": Odd(
            "jpg", b"<!doctype html><html>404</html>", reason="UnidentifiedImageError: not an image in one of JPEG"
        ),
        "truncated JPEG": Odd("jpg", jpeg[: len(jpeg) // 2], reason="(?i)truncated"),
        "truncated PNG": Odd("png", png[: len(png) // 2], reason="(?i)truncated"),
        "PNG with a wrong checksum": Odd("png", with_broken_checksum(), reason="(?i)checksum|broken"),
        "one pixel high": Odd("png", encoded(Image.new("RGB", (5000, 1)), "PNG"), reason="times as long as wide"),
        "100 megapixels in a few bytes": Odd("png", bomb(10_000, 10_000), reason="million pixels"),
        "a side of 30,000": Odd("png", bomb(30_000, 1000), reason="a side above"),
        "PostScript": Odd("jpg", encoded(PICTURE, "EPS"), reason="UnidentifiedImageError"),
        "float TIFF of NaN": Odd(
            "tif", encoded(Image.fromarray(np.full((9, 9), np.nan, dtype=np.float32)), "TIFF"), reason="not finite"
        ),
        "one pixel": Odd("png", encoded(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG"), np.full((1, 1, 3), (9, 8, 7))),
        "animated GIF": Odd(
            "gif", encoded(frames[1], "GIF", save_all=True, append_images=frames[2:]), np.full((48, 64, 3), (255, 0, 0))
        ),
        "animated WebP": Odd("webp", encoded(frames[0], "WEBP", lossless=True, **moving), PIXELS),
        "animated PNG": Odd("png", encoded(frames[0], "PNG", **moving), PIXELS),
        "CMYK JPEG": Odd("jpg", encoded(PICTURE.convert("CMYK"), "JPEG", quality=100), PIXELS, tolerance=4),
        "palette": Odd("png", encoded(palette, "PNG"), np.asarray(palette.convert("RGB"))),
        "half transparent": Odd("png", encoded(transparent("RGBA", 128), "PNG"), on_white(128), tolerance=1),
        "gray with alpha": Odd("png", encoded(transparent("LA", 0), "PNG"), np.full((48, 64, 3), 255)),
        "one bit": Odd("png", encoded(bits, "PNG"), np.asarray(bits.convert("RGB"))),
        "16 bits": Odd("png", encoded(Image.fromarray(sixteen), "PNG"), GRAY, tolerance=0.5),
        "float TIFF": Odd(
            "tif",
            encoded(Image.fromarray(floats), "TIFF"),
            np.repeat(((floats - floats.min()) / span * 255)[:, :, None], 3, 2),
            tolerance=0.5,
        ),
        "EXIF turned": Odd("png", encoded(PICTURE, "PNG", exif=exif(6)), PIXELS.transpose(1, 0, 2)[:, ::-1]),
        "damaged EXIF": Odd(
            "jpg", encoded(PICTURE, "JPEG", quality=95, exif=b"Exif\0\0II*\0\xff\xff\xff\xff\1\2"), PIXELS, tolerance=4
        ),
        "PNG called .jpg": Odd("jpg", png, PIXELS),
    }
