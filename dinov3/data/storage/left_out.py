"""What lies beside the images and is not used, counted by its suffix, with the reason: nobody should train on 6 of 40
photographs because 34 of them are in a format that is not read, and find nothing about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from dinov3.data.storage.names import printable

MOST_SUFFIXES = 40  # lines; further ones are counted together
# Formats of pictures that Pillow does not read, or only with other packages, or that are not safe to read.
PICTURES = frozenset(
    b".avif .heic .heif .jxl .jp2 .j2k .jpc .jpx .jls .jxr .wdp .dcm .dicom .dng .cr2 .cr3 .nef .arw .orf .rw2 .raf .raw "
    b".svg .psd .xcf .exr .hdr .ppm .pgm .pbm .pnm .tga .ico .icns .pcx .eps .pdf .svs .ndpi .czi .vsi .mrxs .scn .lif "
    b".nd2 .nii .nrrd .mha .fits .dds .qoi .btf".split()
)
ARCHIVES = frozenset(b".zip .gz .tgz .tar .7z .rar .bz2 .xz .zst".split())
VIDEOS = frozenset(b".mp4 .avi .mov .mkv .webm .mpg .mpeg .m4v .wmv".split())


class LeftOut(Counter[str]):
    """Reason -> how many files. ``add_file`` finds the reason from a file's name."""

    def add_file(self, name: bytes) -> None:
        """Count a file whose suffix is not that of an image that is read."""
        suffix = suffix_of(name)
        why = reason(suffix)
        key = f"{printable(suffix) or 'files without a suffix'}: {why}"
        if key not in self and len(self) >= MOST_SUFFIXES:
            key = f"files with other suffixes: {why}"
        self[key] += 1


def suffix_of(name: bytes) -> bytes:
    """From the last dot on, in small letters; empty when there is none, or more text than a suffix has."""
    _, dot, suffix = name.rpartition(b"/")[2].rpartition(b".")
    return b"." + suffix.lower() if dot and len(suffix) <= 12 else b""


def reason(suffix: bytes) -> str:
    """Why files that end so are not used."""
    if suffix in PICTURES:
        return "not a format read here"
    if suffix in ARCHIVES:
        return "an archive, which is not opened"
    if suffix in VIDEOS:
        return "a video: extract its frames"
    return "no image file"


def lines(counts: Mapping[str, int]) -> list[str]:
    """``34 .avif left out: not a format read here``, the most first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    texts = []
    for key, count in ordered:
        what, _, why = key.partition(": ")
        texts.append(f"{count:,} {what} left out" + (f": {why}" if why else ""))
    return texts
