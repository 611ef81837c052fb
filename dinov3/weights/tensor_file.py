"""Safetensors files of any size, in folders that are removed as a whole when a write is killed."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from dinov3.system.files import naming


def write_tensor_file(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write contiguous ``tensors`` that share no memory, readable by those who may read any new file of this process.

    The library alone makes files for their owner only. Raises OSError, with ``path``, for what the system refuses (a full
    disk), SafetensorError for tensors that cannot be written. A killed process leaves a ``.tmp*`` file of the library's beside ``path``.
    """
    path.touch()
    mode = path.stat().st_mode  # not from the umask: to ask for it is to change it, for all threads
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:  # the library's own words end in "(os error 28)"
        if refused := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(refused[1]), os.strerror(int(refused[1])), str(path)) from error
        raise
    if metadata:
        _in_order(path)
    path.chmod(mode)


def _in_order(path: Path) -> None:
    """Sort the metadata in the header: the library writes it in an order of chance, and the same weights would have
    another sha256 every time."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:  # as it is, but for the order; otherwise the library has other words for a character
            file.seek(8)
            file.write(text.ljust(size))


def write_torch_file(content: dict[str, Any], path: Path) -> None:
    """``torch.save`` to a new file. Raises OSError, with ``path``, where torch's own error says nothing of the disk."""
    try:
        with naming(path), path.open("wb") as file:
            torch.save(content, file)
    except RuntimeError as error:
        if isinstance(cause := error.__context__, OSError):
            raise OSError(cause.errno, cause.strerror, str(path)) from error
        raise
