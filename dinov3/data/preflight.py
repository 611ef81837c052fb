"""Is there a data set where the config says? Asked before torch is imported, so that the answer is there at once.

It looks for what is missing or empty, and reads nothing: opening the data set, later, finds everything else.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dinov3.data.decode import SUFFIXES
from dinov3.data.errors import DataError
from dinov3.data.sources.imagefolder import check_folder
from dinov3.data.sources.options import local_path
from dinov3.data.sources.parse import NAMED, kind_of, module_of, split_options

ENOUGH = 10_000  # files among which one image must be; a larger folder is searched when it is opened


def refuse_missing(named: str | Sequence[str]) -> None:
    """Raise DataError when ``named``, as in ``train.dataset_path``, is a path, or has a ``root=`` or ``path=``, where there
    is nothing, or a folder without any image. Imports no torch."""
    for text in [named] if isinstance(named, str) else named:
        match = NAMED.fullmatch(text)
        if match and module_of(match.group(1)) is not None:
            given = split_options(text, match.group(2))
            place = given.get("root", given.get("path"))
            if place is None or any(letter in place for letter in "*{"):
                continue  # made when it is read; several files
            if not os.path.lexists(local_path(place)):
                raise DataError(f"{place}: there is no such file or folder")
            if match.group(1).lower() == "imagefolder":
                refuse_empty(local_path(place))
        elif "{" not in text and "*" not in text:
            path = local_path(text)
            if kind_of(path)[0] == "imagefolder":
                refuse_empty(path)
            elif not os.path.lexists(path):
                raise DataError(f"{path}: there is no such file or folder")


def refuse_empty(folder: Path) -> None:
    """Raise DataError when ``folder`` is none, or holds no image among its first ENOUGH files."""
    check_folder(folder)
    looked_at = 0
    for _, _, files in os.walk(os.fsencode(folder), followlinks=True):
        if any(name.lower().endswith(SUFFIXES) for name in files):
            return
        looked_at += 1 + len(files)
        if looked_at > ENOUGH:
            return
    kinds = " ".join(suffix.decode() for suffix in SUFFIXES)
    raise DataError(f"{folder}: contains no images; images end in {kinds}")
