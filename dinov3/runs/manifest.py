"""``manifest.json``: what a checkpoint consists of, whether it is whole, and how older layouts are read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from dinov3.system.json_file import JsonError, Maybe, read_object

NAME = "manifest.json"
STATE = "train_state.json"
FORMAT_VERSION = 2
FORM = {"format_version": int, "files": {str: {"size": int, "sha256": str}}}
STATE_FORM = {
    "counters": {"step": int, "samples": int, str: int},
    **dict.fromkeys(("config", "pretrained", "versions"), Maybe(dict)),
    **dict.fromkeys(("run", "resumed_from"), Maybe(str)),
    **dict.fromkeys(("global_batch", "until"), Maybe(int)),
}
HASHING_THREADS = 8  # sha256 runs at about 1 GB/s a core, outside Python's lock


def describe_file(path: Path) -> dict[str, Any]:
    """Size and sha256, as the manifest has them."""
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def problem_with(folder: Path, *, only: Collection[str] | None = None) -> str | None:
    """None when every file, or those whose names are given, is as the manifest says, else what is wrong."""
    try:
        files = _files_of(folder)
    except _ManifestError as error:
        return str(error)
    if only is not None:
        if unknown := set(only) - set(files):
            return f"{NAME} does not name {min(unknown)}"
        files = {name: files[name] for name in only}
    for name, expected in files.items():
        if problem := _size_problem(folder / name, expected, name):
            return problem
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        problems = pool.map(lambda name: _content_problem(folder / name, files[name], name), files)
        return next((p for p in problems if p), None)


def quick_problem_with(folder: Path) -> str | None:
    """As ``problem_with``, by names and sizes only."""
    try:
        files = _files_of(folder)
    except _ManifestError as error:
        return str(error)
    return next((p for name, f in files.items() if (p := _size_problem(folder / name, f, name))), None)


class _ManifestError(Exception):
    pass


def _files_of(folder: Path) -> dict[str, tuple[int, str]]:
    """Name -> (size, sha256) of every file."""
    try:
        content = read_object(folder / NAME, FORM)
    except FileNotFoundError:
        raise _ManifestError(f"{NAME} is missing") from None
    except OSError as error:
        raise _ManifestError(f"{NAME} cannot be read: {error.strerror}") from None
    except JsonError as error:
        raise _ManifestError(f"{NAME} is damaged ({error})") from None
    version: int = content["format_version"]
    files = {name: (f["size"], f["sha256"]) for name, f in content["files"].items()}
    if version > FORMAT_VERSION or version < 1:
        raise _ManifestError(
            f"format version {version} is newer than this program's ({FORMAT_VERSION})"
            if version > 0
            else f"{NAME} is damaged: format version {version}"
        )
    if STATE not in files or not any(name.startswith("state/") for name in files):
        raise _ManifestError(f"{NAME} is damaged: it does not name the state")
    for name in files:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise _ManifestError(f"{NAME} names {name!r}, which lies outside the checkpoint")
    extra = {p.relative_to(folder).as_posix() for p in (folder / "state").glob("*")} - set(files)
    if extra:  # the reader takes every file there is
        raise _ManifestError(f"{min(extra)} is not in {NAME}")
    return files


def _size_problem(path: Path, expected: tuple[int, str], name: str) -> str | None:
    if not path.is_file():
        return f"{name} is missing"
    if path.stat().st_size != expected[0]:
        return f"{name} has {path.stat().st_size} bytes, {expected[0]} expected"
    return None


def _content_problem(path: Path, expected: tuple[int, str], name: str) -> str | None:
    try:
        if describe_file(path)["sha256"] != expected[1]:
            return f"{name} is damaged (sha256 differs)"
        if name == STATE:
            read_object(path, STATE_FORM)
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):  # checks the header: its length, that no tensor lies outside the file
                pass
    except SafetensorError as error:
        return f"{name} is not a safetensors file: {error}"
    except JsonError as error:
        return f"{name} is damaged ({error})"
    except OSError as error:
        return f"{name} cannot be read: {error.strerror}"
    return None


def read_train_state(folder: Path) -> dict[str, Any]:
    """``train_state.json`` of a verified checkpoint, in today's layout whatever version wrote it."""
    version: int = read_object(folder / NAME, FORM)["format_version"]
    state = read_object(folder / STATE, STATE_FORM)
    for older in range(version, FORMAT_VERSION):
        state = MIGRATIONS[older](state)
    return state


def _from_1(state: dict[str, Any]) -> dict[str, Any]:
    """Version 1 knew neither the fingerprint of the data set nor steps that were jumped over."""
    return {**state, "counters": {**state["counters"], "jumped_steps": 0}, "dataset": None}


MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1}
