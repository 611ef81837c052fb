"""Checkpoints that are complete or absent, verified before they are read, and hold no pickle.

``RUN/ckpt/step-00000120/`` holds the state after 120 steps:

    state/*.safetensors   every tensor (torch.distributed.checkpoint in its safetensors form: no code can hide in it)
    train_state.json      everything that is not a tensor
    backbone.safetensors, config.json   the EMA backbone alone, ready to load anywhere
    manifest.json         size and sha256 of every file above; written last

A save goes to ``.tmp-*`` first, is flushed to disk and then renamed, so that a folder called ``step-*`` is whole.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import shutil
import signal
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException, HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from dinov3.distributed.agreement import SharedFailure, every_process, in_one_line, main_process
from dinov3.distributed.collectives import Group, broadcast_object
from dinov3.distributed.context import is_main, rank, world_size
from dinov3.runs import manifest
from dinov3.runs.faults import Point, hit
from dinov3.runs.folder import RunFolder
from dinov3.runs.manifest import FORMAT_VERSION, describe_file, problem_with, quick_problem_with
from dinov3.runs.run_id import known_run_id
from dinov3.runs.step_folders import STEP, CheckpointError, step_folders, step_of
from dinov3.system.files import flush

log = logging.getLogger(__name__)
MARGIN = 1.1  # of the size of a save: file headers, the backbone beside the state


@dataclass(frozen=True)
class Saved:
    """A committed checkpoint, and what it cost."""

    folder: Path
    seconds: float
    size: int  # bytes


class Checkpointer:
    """Writes and prunes the checkpoints of one run. Every process calls ``save``; what fails on one fails on all.

    ``save`` speaks to the other processes through ``group`` alone, so a thread with a group of its own may call it.
    """

    def __init__(self, run: Path, *, max_to_keep: int | None, keep_every: int | None, group: Group = None) -> None:
        self.folder = run / "ckpt"
        self.max_to_keep = max_to_keep
        self.keep_every = keep_every
        self.group = group
        self.needed_from = math.inf  # a checkpoint of this step or a later one is kept for others' sake
        self._whole: set[str] = set()  # checkpoints this process has written or looked at

    def left_over(self, newest: Path | None) -> list[Path]:
        """What a killed save or prune leaves: partial folders and, older than the verified ``newest``, more than are kept."""
        surplus = [] if newest is None else self._surplus(newest)
        return sorted([*self.folder.glob(".tmp-*"), *self.folder.glob(".trash-*"), *surplus])

    def tidy(self, newest: Path | None) -> list[Path]:
        """Remove what ``left_over`` names, and name it. Every process must call it. Raises CheckpointError on all."""
        try:
            return main_process(lambda: self._tidy(newest), self.group)
        except SharedFailure as error:
            raise CheckpointError(f"{self.folder}: {error}") from error

    def _tidy(self, newest: Path | None) -> list[Path]:
        self.folder.mkdir(parents=True, exist_ok=True)  # from the start of a run on: its mark for those who read it
        found = self.left_over(newest)
        for folder in found:
            if not STEP.match(folder.name):
                shutil.rmtree(folder)
        if newest is not None:
            self._prune(newest)
        return found

    def save(
        self,
        step: int,
        tensors: dict[str, Tensor],
        info: dict[str, Any],
        write_extras: Callable[[Path], None],
    ) -> Saved:
        """Commit the state after ``step`` steps, if it is not there. ``write_extras(folder)`` adds small files, on the main process.

        Raises CheckpointError on every process when one of them fails; then nothing of this save is left.
        """
        started = time.perf_counter()
        final = self.folder / f"step-{step:08d}"
        self._write(final, tensors, info, write_extras)
        seconds = time.perf_counter() - started
        try:
            main_process(lambda: self._prune(newest=final), self.group)
        except SharedFailure as error:
            log.warning("old checkpoints in %s stay: %s", self.folder, error)
        return Saved(final, seconds, _size(final))

    def _write(
        self,
        final: Path,
        tensors: dict[str, Tensor],
        info: dict[str, Any],
        write_extras: Callable[[Path], None],
    ) -> None:
        step = step_of(final)
        # An attempt has a name of its own: a process of an earlier one that still hangs somewhere cannot write into it.
        attempt = broadcast_object(f"{os.getpid()}-{time.time_ns():x}", self.group)
        temporary = self.folder / f".tmp-{step:08d}.{attempt}"
        try:
            if main_process(lambda: final.exists() and problem_with(final) is None, self.group):
                return
            main_process(lambda: self._open(temporary, _bytes_of(tensors), info.get("run")), self.group)
            every_process(lambda: save_tensors(tensors, temporary / "state", self.group), self.group)
            files = every_process(lambda: _seal_own(temporary / "state", step), self.group)
            merged = {k: v for part in files for k, v in part.items()}
            main_process(lambda: self._commit(temporary, final, step, merged, info, write_extras), self.group)
        except SharedFailure as error:
            if is_main():
                shutil.rmtree(temporary, ignore_errors=True)
            raise CheckpointError(f"{final}: not saved: {error}") from error

    def _open(self, temporary: Path, size: int, run: str | None) -> None:
        """Make the folder of a save when there is room for it: a disk that fills up under way costs minutes.

        ``run``: the id its folder had; None: not known. In another folder of that name the state would belong to nothing.
        """
        known = known_run_id(RunFolder(self.folder.parent))
        if run is not None and known is None and not self.folder.exists():
            raise OSError(
                errno.ENOENT, "the run folder was moved or removed: put it back and run the same command again"
            )
        if None not in (run, known) and run != known:
            raise OSError(errno.EEXIST, f"the folder is that of another run now ({known}, this is {run})")
        self.folder.mkdir(parents=True, exist_ok=True)
        free = os.statvfs(self.folder)
        have, need = free.f_bavail * free.f_frsize, int(MARGIN * size)
        if have < need:
            raise OSError(errno.ENOSPC, f"disk full: need {_megabytes(need)}, have {_megabytes(have)}")
        temporary.mkdir()

    def _commit(
        self,
        temporary: Path,
        final: Path,
        step: int,
        files: dict[str, dict[str, Any]],
        info: dict[str, Any],
        write_extras: Callable[[Path], None],
    ) -> None:
        (temporary / manifest.STATE).write_text(json.dumps(info, indent=1), encoding="utf-8")
        write_extras(temporary)
        hit(Point.MANIFEST, step)
        small = [p for p in temporary.iterdir() if p.is_file()]
        files = files | {p.name: describe_file(p) for p in small}
        content = {"format_version": FORMAT_VERSION, "step": step, "files": dict(sorted(files.items()))}
        (temporary / manifest.NAME).write_text(json.dumps(content, indent=1), encoding="utf-8")
        for path in [*small, temporary / manifest.NAME, temporary / "state", temporary]:
            flush(path)
        hit(Point.RENAME, step)
        if final.exists():  # a damaged one of the same step
            os.rename(final, self.folder / f".trash-{final.name}")
        os.rename(temporary, final)
        hit(Point.COMMITTED, step)
        flush(self.folder)
        self._whole.add(final.name)

    def _prune(self, newest: Path) -> None:
        """Drop the surplus. It is renamed first, so that it never looks whole when half of it is deleted."""
        for folder in self._surplus(newest):
            os.rename(folder, self.folder / f".trash-{folder.name}")
        for trash in self.folder.glob(".trash-*"):
            hit(Point.PRUNE, step_of(newest))
            shutil.rmtree(trash)

    def _surplus(self, newest: Path) -> list[Path]:
        """What is older than ``max_to_keep`` whole ones, ``newest`` the first of them.

        A damaged checkpoint does not count, so it never drives out a whole one.
        """
        kept, surplus = 0, []
        for folder in reversed(step_folders(self.folder.parent)):
            if self._pinned(folder) or step_of(folder) > step_of(newest):
                continue
            enough = self.max_to_keep is not None and kept >= self.max_to_keep
            if enough and step_of(folder) < self.needed_from:
                surplus.append(folder)
            elif folder.name in self._whole or quick_problem_with(folder) is None:
                self._whole.add(folder.name)
                kept += 1
        return surplus

    def _pinned(self, folder: Path) -> bool:
        return self.keep_every is not None and step_of(folder) % self.keep_every == 0


def _seal_own(folder: Path, step: int) -> dict[str, dict[str, Any]]:
    """Flush and describe the shards this process has written: on another machine they may still be in its memory only."""
    own = [p for p in sorted(folder.glob("*.safetensors")) if p.name.startswith(f"shard-{rank() + 1:05d}-")]
    if hit(Point.SHARDS, step):
        os.truncate(own[0], own[0].stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    for path in own:
        flush(path)
    return {f"{folder.name}/{p.name}": describe_file(p) for p in own}


def _bytes_of(tensors: dict[str, Tensor]) -> int:
    """Bytes of the whole tensors, also where each process holds a part."""
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _size(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _quiet_dcp(function: Callable[..., Any], *args: Any, alone: bool = False, **kwargs: Any) -> None:
    # One process without a group is a supported way to run here, not a mistake to warn of. The filter stays:
    # ``catch_warnings`` swaps a list that all threads share.
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")
    function(*args, no_dist=alone or world_size() == 1, **kwargs)


def save_tensors(tensors: dict[str, Tensor], folder: Path, group: Group = None) -> None:
    """Write tensors (plain or sharded) as safetensors shards, one file a process."""
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    _quiet_dcp(dcp.save, tensors, storage_writer=writer, process_group=group)


def load_tensors(tensors: dict[str, Tensor], folder: Path) -> None:
    """Fill ``tensors`` in place from what ``save_tensors`` wrote; names and shapes must match in both directions."""
    reader = HuggingFaceStorageReader(str(folder))
    stored = {k: tuple(m.size) for k, m in _stored(reader, folder).items()}
    missing, unexpected = sorted(set(tensors) - set(stored)), sorted(set(stored) - set(tensors))
    if missing or unexpected:
        raise CheckpointError(
            f"{folder}: does not fit this model: missing {missing[:5]}, unexpected {unexpected[:5]}; "
            "resume with the config it was written with"
        )
    wrong = [f"{k} {stored[k]}, model {tuple(v.shape)}" for k, v in tensors.items() if stored[k] != tuple(v.shape)]
    if wrong:
        raise CheckpointError(f"{folder}: shapes differ from this model: {wrong[:5]}")
    _fill(tensors, reader, folder)


def _fill(tensors: dict[str, Tensor], reader: HuggingFaceStorageReader, folder: Path, *, alone: bool = False) -> None:
    try:
        _quiet_dcp(dcp.load, tensors, storage_reader=reader, alone=alone)
    except CheckpointException as error:
        raise CheckpointError(f"{folder}: cannot be read: {in_one_line(error)}") from error


def _stored(reader: HuggingFaceStorageReader, folder: Path) -> dict[str, TensorStorageMetadata]:
    """What the files of a ``state`` folder say they hold: no more than fits into them."""
    try:
        stored: Any = reader.read_metadata().state_dict_metadata
    except (SafetensorError, OSError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: cannot be read: {type(error).__name__}: {error}") from error
    claimed = sum(m.size.numel() * m.properties.dtype.itemsize for m in stored.values())
    if claimed > _size(folder):
        raise CheckpointError(f"{folder}: claims to hold {claimed} bytes of tensors in {_size(folder)} bytes of files")
    return dict(stored)


def stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors of a ``state`` folder."""
    return {k: tuple(m.size) for k, m in _stored(HuggingFaceStorageReader(str(folder)), folder).items()}


def fill_tensors(tensors: dict[str, Tensor], folder: Path) -> None:
    """Fill some tensors of a ``state`` folder in place, by their names there; shapes are the caller's to compare."""
    if tensors:
        _fill(tensors, HuggingFaceStorageReader(str(folder)), folder)


def read_tensors(folder: Path, prefix: str) -> dict[str, Tensor]:
    """Whole tensors of a ``state`` folder whose names start with ``prefix``, prefix removed; nothing is asked of other processes."""
    reader = HuggingFaceStorageReader(str(folder))
    stored = _stored(reader, folder)
    chosen = {k: torch.empty(m.size, dtype=m.properties.dtype) for k, m in stored.items() if k.startswith(prefix)}
    _fill(chosen, reader, folder, alone=True)
    return {k.removeprefix(prefix): v for k, v in chosen.items()}
