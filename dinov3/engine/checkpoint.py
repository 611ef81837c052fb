"""Checkpoints that are complete or absent, verified before they are read, and hold no pickle.

``RUN/ckpt/step-00000120/`` holds the state after 120 steps:

    state/*.safetensors   every tensor (torch.distributed.checkpoint in its safetensors form: no code can hide in it)
    train_state.json      everything that is not a tensor
    backbone.safetensors, config.json   the EMA backbone alone, ready to load anywhere
    manifest.json         size and sha256 of every file above; written last

A save goes to ``.tmp-*`` first, is flushed to disk and then renamed, so that a folder called ``step-*`` is whole.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter

from dinov3.distributed.collectives import broadcast_object
from dinov3.distributed.context import barrier, is_main, world_size

log = logging.getLogger(__name__)
FORMAT_VERSION = 1
STEP = re.compile(r"^step-(\d{8})$")


class CheckpointError(Exception):
    """A checkpoint cannot be written or read; the message names the file and says what to do."""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Force a file or a folder's entries to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def step_folders(run: Path) -> list[Path]:
    """Committed checkpoints of a run, oldest first, not yet verified."""
    folder = run / "ckpt"
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and STEP.match(p.name))


def step_of(folder: Path) -> int:
    """Steps done when this checkpoint was written."""
    match = STEP.match(folder.name)
    assert match
    return int(match.group(1))


def problem_with(folder: Path) -> str | None:
    """None when every file is as the manifest says, else what is wrong."""
    manifest = folder / "manifest.json"
    try:
        content = json.loads(manifest.read_text())
        version = int(content["format_version"])
        files = {str(name): (int(f["size"]), str(f["sha256"])) for name, f in content["files"].items()}
    except FileNotFoundError:
        return "manifest.json is missing"
    except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
        return "manifest.json is damaged"
    if version > FORMAT_VERSION:
        return f"format version {version} is newer than this program's ({FORMAT_VERSION})"
    if "train_state.json" not in files or not any(name.startswith("state/") for name in files):
        return "manifest.json is damaged: it does not name the state"
    for name, (size, sha256) in files.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            return f"manifest.json names {name!r}, which lies outside the checkpoint"
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, {size} expected"
        if _sha256(path) != sha256:
            return f"{name} is damaged (sha256 differs)"
    return None


def newest_valid(run: Path) -> Path | None:
    """The newest checkpoint that verifies; damaged ones are passed over with one warning each.

    Raises CheckpointError when there are checkpoints and none verifies: never a silent restart from nothing.
    """
    folders = step_folders(run)
    for folder in reversed(folders):
        problem = problem_with(folder)
        if problem is None:
            return folder
        log.warning("checkpoint %s is passed over: %s", folder, problem)
    if folders:
        raise CheckpointError(
            f"{run / 'ckpt'}: no checkpoint can be read; --no-resume moves them aside and starts again"
        )
    return None


class Checkpointer:
    """Writes and prunes the checkpoints of one run."""

    def __init__(self, run: Path, *, max_to_keep: int | None, keep_every: int | None) -> None:
        self.folder = run / "ckpt"
        self.max_to_keep = max_to_keep
        self.keep_every = keep_every
        if is_main():
            self.folder.mkdir(parents=True, exist_ok=True)
            for left_over in [*self.folder.glob(".tmp-*"), *self.folder.glob(".trash-*")]:
                shutil.rmtree(left_over)
        barrier()

    def save(
        self,
        step: int,
        tensors: dict[str, Tensor],
        info: dict[str, Any],
        write_extras: Callable[[Path], None],
    ) -> Path:
        """Commit the state after ``step`` steps. ``write_extras(folder)`` adds small files, on the main process."""
        final = self.folder / f"step-{step:08d}"
        if broadcast_object(final.exists() and problem_with(final) is None):
            return final
        temporary = self.folder / f".tmp-{step:08d}.{broadcast_object(os.getpid())}"
        try:
            if is_main():
                temporary.mkdir()
            barrier()
            save_tensors(tensors, temporary / "state")
            if is_main():
                (temporary / "train_state.json").write_text(json.dumps(info, indent=1))
                write_extras(temporary)
                self._commit(temporary, final, step)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise CheckpointError(f"{final}: not saved: {error}") from error
        barrier()
        if is_main():
            self._prune(newest=final)
        return final

    def _commit(self, temporary: Path, final: Path, step: int) -> None:
        names = sorted(p.relative_to(temporary).as_posix() for p in temporary.rglob("*") if p.is_file())
        files = {n: {"size": (temporary / n).stat().st_size, "sha256": _sha256(temporary / n)} for n in names}
        manifest = {"format_version": FORMAT_VERSION, "step": step, "files": files}
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1))
        for name in [*names, "manifest.json"]:
            _flush(temporary / name)
        _flush(temporary / "state")
        _flush(temporary)
        if final.exists():  # a damaged one of the same step
            os.rename(final, self.folder / f".trash-{final.name}")
        os.rename(temporary, final)
        _flush(self.folder)

    def _prune(self, newest: Path) -> None:
        """Drop old checkpoints, renamed first so that a half-deleted one never looks whole."""
        if self.max_to_keep is None:
            return
        kept = [p for p in step_folders(self.folder.parent) if not self._pinned(p)]
        for old in kept[: -self.max_to_keep]:
            if old != newest:
                os.rename(old, self.folder / f".trash-{old.name}")
        for trash in self.folder.glob(".trash-*"):
            shutil.rmtree(trash)

    def _pinned(self, folder: Path) -> bool:
        return self.keep_every is not None and step_of(folder) % self.keep_every == 0


def _quiet_dcp(function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    with warnings.catch_warnings():
        # One process without a group is a supported way to run here, not a mistake to warn of.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        function(*args, no_dist=world_size() == 1, **kwargs)


def save_tensors(tensors: dict[str, Tensor], folder: Path) -> None:
    """Write tensors (plain or sharded) as safetensors shards, one file a process."""
    _quiet_dcp(dcp.save, tensors, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))


def load_tensors(tensors: dict[str, Tensor], folder: Path) -> None:
    """Fill ``tensors`` in place from what ``save_tensors`` wrote; names and shapes must match in both directions."""
    reader = HuggingFaceStorageReader(str(folder))
    metadata: Any = reader.read_metadata().state_dict_metadata
    stored = {k: tuple(m.size) for k, m in metadata.items()}
    missing, unexpected = sorted(set(tensors) - set(stored)), sorted(set(stored) - set(tensors))
    if missing or unexpected:
        raise CheckpointError(
            f"{folder}: does not fit this model: missing {missing[:5]}, unexpected {unexpected[:5]}; "
            "resume with the config it was written with"
        )
    wrong = [f"{k} {stored[k]}, model {tuple(v.shape)}" for k, v in tensors.items() if stored[k] != tuple(v.shape)]
    if wrong:
        raise CheckpointError(f"{folder}: shapes differ from this model: {wrong[:5]}")
    _quiet_dcp(dcp.load, tensors, storage_reader=reader)


def read_tensors(folder: Path, prefix: str) -> dict[str, Tensor]:
    """Whole tensors of a ``state`` folder whose names start with ``prefix``, prefix removed."""
    reader = HuggingFaceStorageReader(str(folder))
    stored: Any = reader.read_metadata().state_dict_metadata
    chosen = {k: torch.empty(m.size, dtype=m.properties.dtype) for k, m in stored.items() if k.startswith(prefix)}
    _quiet_dcp(dcp.load, chosen, storage_reader=reader)
    return {k.removeprefix(prefix): v for k, v in chosen.items()}
