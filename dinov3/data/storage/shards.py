"""The files of a dataset that has several: a folder of them, ``name-{0000..0041}.tar``, ``*`` and ``{a,b}``."""

from __future__ import annotations

import glob
import itertools
import re
from pathlib import Path

from dinov3.data.errors import DataError
from dinov3.data.sources.options import local_path


def shards_of(text: str, suffixes: tuple[str, ...]) -> list[Path]:
    """The files that ``text`` names; of a folder those that end in one of ``suffixes``. Raises DataError for missing ones."""
    shards: list[Path] = []
    for part in expand_braces(text):
        path = local_path(part)
        if path.is_dir():
            matching = sorted(file for file in path.iterdir() if file.name.endswith(suffixes))
        else:
            matching = [path] if path.exists() else sorted(map(Path, glob.glob(str(path))))
        if not matching:
            problem = (
                f"holds no file that ends in {' or '.join(suffixes)}" if path.is_dir() else "there is no such file"
            )
            raise DataError(f"{path}: {problem}")
        if strange := next((file for file in matching if not file.is_file()), None):
            raise DataError(f"{strange}: is not a file")  # a pipe would be waited for, a device never end
        shards += matching
    return [shard.absolute() for shard in shards]


def expand_braces(text: str) -> list[str]:
    """``a-{08..10}`` to a-08, a-09, a-10, and ``{x,y}`` to x, y, everywhere in ``text``."""
    parts: list[list[str]] = []
    for piece in re.split(r"(\{[^{}]*\})", text):
        if counted := re.fullmatch(r"\{(\d+)\.\.(\d+)\}", piece):
            first, last = counted.groups()
            parts.append([str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)])
        elif piece.startswith("{") and piece.endswith("}"):
            parts.append(piece[1:-1].split(","))
        else:
            parts.append([piece])
    return ["".join(choice) for choice in itertools.product(*parts)]
