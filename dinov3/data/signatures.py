"""What a file is that cannot be read as an image, from its header: for reasons that are true and help."""

from __future__ import annotations

import re
import struct

# First bytes -> what begins so. Formats that are images say so: the file is not broken, it is of another kind.
BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file: git lfs pull"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"<?xml", "XML, perhaps SVG"),
    (b"<svg", "SVG"),
    (b"%PDF", "a PDF"),
    (b"%!PS", "PostScript"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000, which is not read"),
    (b"\xff\x4f\xff\x51", "JPEG 2000, which is not read"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL, which is not read"),
    (b"\xff\x0a", "JPEG XL, which is not read"),
    (b"8BPS", "a Photoshop file, which is not read"),
    (b"\x76\x2f\x31\x01", "OpenEXR, which is not read"),
    (b"\x1f\x8b", "compressed with gzip: unpack it"),
    (b"PK\x03\x04", "a zip archive: unpack it"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"P5", "a PGM, which is not read"),
    (b"P6", "a PPM, which is not read"),
)
BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF", b"avif": "AVIF", b"avis": "AVIF"}
FRAMES = {  # JPEG's SOF markers that libjpeg does not decode, or only in part (T.81, table B.1)
    0xC3: "a lossless JPEG, which is not read",
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "a hierarchical JPEG, which is not read"),
    0xCB: "a lossless JPEG, which is not read",
    0xF7: "JPEG-LS, which is not read",
}
PHOTOMETRIC = {
    0: "miniswhite",
    1: "minisblack",
    2: "RGB",
    3: "palette",
    5: "CMYK",
    6: "YCbCr",
    8: "CIELab",
    32803: "a colour filter array",
}
FORMATS = {1: "uint", 2: "int", 3: "float", 4: "undefined", 5: "complex int", 6: "complex"}
TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # of TIFF values
MAX_TAGS = 4096


def described(data: bytes) -> str:
    """``TIFF of 4 x uint8, minisblack``, ``a web page``, …; empty when nothing is known."""
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return tiff_kind(data)
    if data[:2] == b"\xff\xd8":
        return jpeg_kind(data)
    if data[4:8] == b"ftyp" and data[8:12] in BRANDS:
        return f"{BRANDS[data[8:12]]}, which is not read here"
    if data[128:132] == b"DICM":
        return "DICOM, which is not read"
    start = data[:64].lstrip().lower()
    return next((what for first, what in BEGINNINGS if data.startswith(first) or start.startswith(first)), "")


def tiff_kind(data: bytes) -> str:
    """Channels, type and colours of a TIFF's first image."""
    tags = tiff_tags(data)
    if 256 not in tags:
        return "a damaged TIFF"
    bits, kinds = tags.get(258, [1]), tags.get(339, [1])
    samples = tags.get(277, [1])[0]
    kind = FORMATS.get(kinds[0], "undefined") + (str(bits[0]) if len(set(bits)) == 1 else "/".join(map(str, bits)))
    colours = PHOTOMETRIC.get(tags.get(262, [1])[0], f"colours of kind {tags.get(262, [1])[0]}")
    packed = "" if tags.get(259, [1])[0] in (1, 5, 7, 8, 32773, 32946) else f", compression {tags[259][0]}"
    return f"TIFF of {samples} x {kind}, {colours}{packed}"


def tiff_tags(data: bytes) -> dict[int, list[int]]:
    """The whole-number tags of the first image of a TIFF or BigTIFF; what lies outside of the file is left out."""
    order, big = "<" if data[:2] == b"II" else ">", data[2:4] in (b"+\0", b"\0+")
    count_kind, entry, inline = ("Q", 20, 8) if big else ("H", 12, 4)
    try:
        (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
        (count,) = struct.unpack_from(order + count_kind, data, at)
        at += struct.calcsize(order + count_kind)
        tags = {}
        for n in range(min(count, MAX_TAGS)):
            tag, kind, number = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, at + n * entry)
            place = at + n * entry + entry - inline
            if kind not in TYPES or not 0 < number <= MAX_TAGS:
                continue
            form = f"{order}{number}{TYPES[kind]}"
            if struct.calcsize(form) > inline:
                (place,) = struct.unpack_from(order + ("Q" if big else "I"), data, place)
            if place + struct.calcsize(form) <= len(data):
                tags[tag] = list(struct.unpack_from(form, data, place))
        return tags
    except (struct.error, OverflowError):
        return {}


def jpeg_kind(data: bytes) -> str:
    """What is unusual about a JPEG; empty when nothing is."""
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in FRAMES:
            return FRAMES[marker]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return f"a JPEG of {data[at + 4]} bits a value, only 8 are read" if data[at + 4] != 8 else ""
        at += 2 + max(length, 2) if marker != 0xFF else 1
    return ""


def scans_in(data: bytes) -> int:
    """Scans of all JPEGs in ``data``. Inside a scan a byte 255 is followed by 0, so no other bytes look like one."""
    return len(re.findall(rb"\xff\xda\x00", data))
