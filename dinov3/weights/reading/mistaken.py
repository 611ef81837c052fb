"""Files that people give as weights and that are something else, told by how they begin."""

from __future__ import annotations

from dinov3.weights.reading.errors import clipped

HEAD = 512  # bytes that tell
AGAIN = "download it again"
PICTURE = "a picture: give weights here (a run folder, .pth or .safetensors); images go to the option for data"
_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: run `git lfs pull` in its folder"),
    (b"version https://hawser", "a Git LFS pointer, not the file itself: run `git lfs pull` in its folder"),
    (b"/annex/objects/", "a git-annex pointer, not the file itself: run `git annex get` in its folder"),
    (b"\x1f\x8b", "packed with gzip: unpack it first"),
    (b"BZh", "packed with bzip2: unpack it first"),
    (b"\xfd7zXZ", "packed with xz: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd: unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"\x89HDF", "an HDF5 file (of Keras?): weights are read from safetensors and torch files"),
    (b"GGUF", "a GGUF file: weights are read from safetensors and torch files"),
    (b"\x93NUMPY", "a NumPy array: weights are read from safetensors and torch files"),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", PICTURE),
    (b"\xff\xd8\xff", PICTURE),
)


def mistaken(head: bytes, size: int) -> str | None:
    """What a file of ``size`` bytes that begins with ``head`` is, and what to do; None when it may be weights."""
    if size == 0:
        return f"empty: {AGAIN}"
    if not head.strip(b"\0"):
        return f"nothing but zeros: its copy or download was broken off; {AGAIN}"
    for beginning, what in _BEGINNINGS:
        if head.startswith(beginning):
            return what
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it first"
    return _text(head, size)


def _text(head: bytes, size: int) -> str | None:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start[:1] == b"<" and start[1:2].isalpha() | (start[1:2] in (b"!", b"?")):
        return f"a web page, not weights: the link has run out or asks for a login; {AGAIN}"
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if len(head) < HEAD or error.start < HEAD - 3:  # only the last character of a long text may be cut
            return None
        text = head[: error.start].decode()
    if not all(c.isprintable() or c in "\r\n\t" for c in text):
        return None
    if start[:1] in (b"{", b"["):
        return "JSON text, not weights: an answer of a server, or a config; give the weight file"
    return f"text ({size} bytes, beginning {clipped(text, 40)!r}), not weights"
