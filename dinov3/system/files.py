"""Files that are whole or absent, and files that are opened without following links.

Everything a run writes beside its checkpoints goes through ``replacing`` or ``write_whole``: to a temporary file of an
unpredictable name, flushed to the disk, then renamed. A crash, a full disk or a power cut leaves the old file or the new.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TEMPORARY = ".tmp-"  # what the names of half-written files begin with
NO_LINKS = getattr(os, "O_NOFOLLOW", 0)  # a link in a folder that others may write to could point anywhere


def flush(path: Path) -> None:
    """Force a file, or a folder's entries, to the disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError of the block says ``path``: those of a write to an open file, such as of a full disk, name none."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write a file that appears as ``path`` when the block ends, whole and on the disk.

    After an error the old file is there, and nothing else. A link called ``path`` is replaced, not followed.
    """
    # the ending stays: libraries choose a format by it
    fresh = path.with_name(f"{TEMPORARY}{secrets.token_hex(6)}-{path.name}")
    os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_LINKS, 0o666))
    try:
        with naming(path):
            yield fresh
            flush(fresh)
            os.replace(fresh, path)
            flush(path.parent)
    finally:
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()


def as_bytes(text: str) -> bytes:
    """UTF-8, whatever the text holds: names of files that were no text come back as their bytes.

    Under ``LANG=C`` without Python's UTF-8 mode every name that is not ASCII is one of those.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a character, which no file's name holds
        return text.encode("utf-8", "backslashreplace")


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace ``path`` by ``content`` (text as ``as_bytes`` has it), as ``replacing`` does."""
    with replacing(path) as fresh:
        fresh.write_bytes(as_bytes(content) if isinstance(content, str) else content)


def write_json(path: Path, content: Any, *, indent: int | None = 1) -> None:
    """Replace ``path`` by JSON."""
    write_whole(path, json.dumps(content, indent=indent) + "\n")


def remove_half_written(folder: Path) -> None:
    """Delete what killed writers have left in ``folder``. Only who alone writes there may call it."""
    for path in folder.glob(f"{TEMPORARY}*"):
        if not path.is_dir():
            path.unlink(missing_ok=True)


def open_unlinked(path: Path, flags: int, mode: int = 0o666) -> int:
    """``os.open`` that raises OSError, naming the file, when ``path`` is a symbolic link."""
    if path.is_symlink():
        raise OSError(f"{path}: is a symbolic link, which is not followed here: remove it")
    return os.open(path, flags | NO_LINKS, mode)


def open_to_append(path: Path) -> int:
    """A handle at the end of ``path``; what a crash left of a last line is cut off first, so that rows stay whole."""
    handle = open_unlinked(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    try:
        cut_to_whole_lines(handle)
    except OSError:
        os.close(handle)
        raise
    return handle


def cut_to_whole_lines(handle: int) -> None:
    """Drop what stands behind the last line break."""
    end, chunk = os.fstat(handle).st_size, 1 << 16
    keep = end
    while keep > 0:
        begin = max(0, keep - chunk)
        found = os.pread(handle, keep - begin, begin).rfind(b"\n")
        keep = begin if found < 0 else begin + found + 1
        if found >= 0:
            break
    if keep < end:
        os.ftruncate(handle, keep)
