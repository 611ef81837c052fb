"""Can a command write where it was told to? Asked before it works, not after."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def check_output_folder(folder: Path, option: str) -> None:
    """Raise OSError, naming ``option``, when no file can be written into ``folder``, which need not exist yet.

    Nothing is left behind.
    """
    place = next((p for p in (folder, *folder.absolute().parents) if os.path.lexists(p)), folder)
    where = f"{option} {folder}: {'' if place == folder else f'{place} '}"
    if not place.is_dir():
        raise NotADirectoryError(f"{where}is not a folder: give another place")
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OSError(
            f"{where}cannot be written to ({reason}): give another place, or change its permissions"
        ) from error


def check_output_file(path: Path, option: str) -> None:
    """``check_output_folder`` of the folder that ``path`` is to be in; OSError also when ``path`` is a folder itself."""
    if path.is_dir():
        raise IsADirectoryError(f"{option} {path}: is a folder: give the name of a file")
    check_output_folder(path.parent, option)
