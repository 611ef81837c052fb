"""Texts and latents that another program has computed, one ``.npy`` an image; and captions."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinov3.config.shown import shown
from dinov3.generate.errors import GenerateError
from dinov3.system.rows import read_rows

Names = tuple[str, ...]


def names_of(index: int, name: str) -> Names:
    """Under which an image is looked for, first the most exact: what the data set calls it, its path from ever fewer folders
    up (``cat/1.jpg``), its file, that without its ending, its place in the data set with nine digits."""
    path = PurePath(name)
    tails = ["/".join(path.parts[first:]) for first in range(1, len(path.parts) - 1)]
    return (name, *tails, path.name, path.stem, f"{index:09d}")


def file_in(names: Names) -> str:
    """The name of the file among ``names_of``, for messages."""
    return names[-3]


def read_captions(path: Path) -> dict[str, str]:
    """A JSONL of ``{"image": NAME, "caption": TEXT}``; NAME is one of ``names_of``. GenerateError for anything else."""
    if not path.is_file():
        raise GenerateError(f"--captions {path}: no such file")
    captions: dict[str, str] = {}
    rows = read_rows(path)
    if len(rows) < (lines := sum(bool(line.strip()) for line in path.read_bytes().split(b"\n"))):
        raise GenerateError(f"--captions {path}: {lines - len(rows)} of {lines} lines are no JSON objects: mend them")
    for number, row in enumerate(rows, 1):
        image, caption = row.get("image"), row.get("caption")
        if not isinstance(image, str) or not isinstance(caption, str):
            raise GenerateError(f'--captions {path}: row {number} is not {{"image": NAME, "caption": TEXT}}')
        if captions.setdefault(image, caption) != caption:
            raise GenerateError(f"--captions {path}: row {number} is another caption for {shown(image)}: keep one")
    if not captions:
        raise GenerateError(f'--captions {path}: no row {{"image": NAME, "caption": TEXT}}')
    return captions


def captioned(captions: Mapping[str, str], names: Names) -> str | None:
    """The name under which an image has a caption; None when it has none."""
    return next((name for name in names if name in captions), None)


def caption_of(captions: Mapping[str, str], names: Names) -> str | None:
    """The caption of an image; None when it has none."""
    return None if (name := captioned(captions, names)) is None else captions[name]


def digest_of(captions: Mapping[str, str]) -> str:
    """Another text for other captions."""
    return hashlib.sha256(json.dumps(sorted(captions.items())).encode()).hexdigest()


class ArrayFiles:
    """``FOLDER/NAME.ENDING`` for each image."""

    def __init__(self, folder: Path, ending: str) -> None:
        if not folder.is_dir():
            raise GenerateError(f"npy:{folder}: no such folder")
        self.folder, self.ending = folder, ending

    def path(self, names: Names) -> Path | None:
        """The file of an image; None when there is none."""
        usable = (name for name in names if name and "/" not in name)
        return next((p for name in usable if (p := self.folder / f"{name}.{self.ending}").is_file()), None)

    def read(self, names: Names) -> NDArray[Any]:
        """The array of an image. GenerateError, naming the file."""
        path = self.path(names)
        if path is None:
            raise GenerateError(f"{self.folder}: no {file_in(names)}.{self.ending}")
        try:
            array: NDArray[Any] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise GenerateError(f"{path}: not a .npy file of numbers ({error})") from error
        if array.dtype.kind not in "biuf":
            raise GenerateError(f"{path}: not a .npy file of numbers (it holds {array.dtype})")
        return array

    def half(self, names: Names) -> NDArray[np.float16]:
        """The same in the format that shards hold. GenerateError where that is not finite."""
        array = self.read(names)
        with np.errstate(over="ignore"):
            found = array.astype(np.float16)
        if not np.isfinite(found).all():
            raise GenerateError(f"{self.path(names)}: holds values that are not finite in fp16")
        return found

    def version(self) -> str:
        """Another text as soon as a file is written, added or gone, as that of a folder of images."""
        with os.scandir(self.folder) as entries:
            found = [(e.name, e.stat()) for e in entries if e.name.endswith(f".{self.ending}") and e.is_file()]
        stamps = sorted((name, status.st_size, status.st_mtime_ns) for name, status in found)
        return hashlib.sha256(json.dumps(stamps).encode()).hexdigest()

    def first(self) -> NDArray[Any]:
        """Any array, to learn their shape. GenerateError when there is none."""
        found = min(self.folder.glob(f"*.{self.ending}"), default=None)
        if found is None:
            raise GenerateError(f"npy:{self.folder}: no *.{self.ending} in it")
        return self.read((found.name.removesuffix(f".{self.ending}"),) * 3)
