"""Can a command write where it was told to? Asked before it works, not after."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from dinov3.config.errors import ConfigError
from dinov3.runs.folder import ALL, PRODUCTS, is_run

PLACE = "command line"


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


def check_results_folder(folder: Path, option: str) -> None:
    """``check_output_folder``; ConfigError also for the folder of a run, whose files are its own."""
    if is_run(folder):
        raise ConfigError(PLACE, option, f"{folder} is the folder of a run, whose files would be lost: give another")
    check_output_folder(folder, option)


def check_output_file(path: Path, option: str) -> None:
    """``check_output_folder`` of the folder that ``path`` is to be in; OSError also when ``path`` is a folder itself.

    ConfigError when ``path`` is a file that a run has written.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{option} {path}: is a folder: give the name of a file")
    run = next((folder for folder in path.resolve().parents if is_run(folder)), None)
    if run is not None and path.exists() and path.resolve().relative_to(run).parts[0] in (*ALL, *PRODUCTS):
        raise ConfigError(PLACE, option, f"{path} belongs to the run {run}: give another name")
    check_output_folder(path.parent, option)


def check_not_input(out: Path, option: str, given: Path) -> None:
    """ConfigError when writing ``out`` would replace ``given``, or a file of the folder ``given``; of runs see above."""
    if not out.exists():
        return
    target, source = out.resolve(), given.resolve()
    if target == source or (source in target.parents and not is_run(source)):
        raise ConfigError(PLACE, option, f"{out} is what is read: give another name")
