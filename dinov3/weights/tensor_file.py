"""Safetensors files of any size, in folders that are removed as a whole when a write is killed."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def write_tensor_file(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write contiguous ``tensors`` that share no memory, readable by those who may read any new file of this process.

    The library alone makes files for their owner only. Raises SafetensorError or OSError as it does. A killed process
    leaves a ``.tmp*`` file of the library's beside ``path``.
    """
    path.touch()
    mode = path.stat().st_mode  # not from the umask: to ask for it is to change it, for all threads
    save_file(tensors, path, metadata)
    path.chmod(mode)
