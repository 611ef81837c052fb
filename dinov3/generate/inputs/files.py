"""Texts and latents that another program has computed, one ``.npy`` an image; and captions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinov3.generate.errors import GenerateError
from dinov3.system.rows import rows_of

Names = tuple[str, ...]


def names_of(index: int, name: str) -> Names:
    """Under which an image is looked for, first the most exact: what the data set calls it, its file, that without its
    ending, its place in the data set with nine digits."""
    path = PurePath(name)
    return (name, path.name, path.stem, f"{index:09d}")


def read_captions(path: Path) -> dict[str, str]:
    """A JSONL of ``{"image": NAME, "caption": TEXT}``; NAME is one of ``names_of``. GenerateError for anything else."""
    if not path.is_file():
        raise GenerateError(f"--captions {path}: no such file")
    captions: dict[str, str] = {}
    for number, row in enumerate(rows_of(path), 1):
        image, caption = row.get("image"), row.get("caption")
        if not isinstance(image, str) or not isinstance(caption, str):
            raise GenerateError(f'--captions {path}: row {number} is not {{"image": NAME, "caption": TEXT}}')
        captions[image] = caption
    if not captions:
        raise GenerateError(f'--captions {path}: no row {{"image": NAME, "caption": TEXT}}')
    return captions


def caption_of(captions: Mapping[str, str], names: Names) -> str | None:
    """The caption of an image; None when it has none."""
    return next((captions[name] for name in names if name in captions), None)


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
            raise GenerateError(f"{self.folder}: no {names[1]}.{self.ending}")
        try:
            array: NDArray[Any] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise GenerateError(f"{path}: not a .npy file of numbers ({error})") from error
        return array

    def first(self) -> NDArray[Any]:
        """Any array, to learn their shape. GenerateError when there is none."""
        found = min(self.folder.glob(f"*.{self.ending}"), default=None)
        if found is None:
            raise GenerateError(f"npy:{self.folder}: no *.{self.ending} in it")
        return self.read((found.name.removesuffix(f".{self.ending}"),) * 2)
