"""Memory that worker processes write and the training process reads."""

from __future__ import annotations

import mmap
import os
import tempfile
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np
import torch
from torch import Tensor


class SharedBytes:
    """Anonymous shared memory, zero at first.

    Not /dev/shm: containers limit that to 64 MB by default, and writing beyond the limit kills the process.
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        if hasattr(os, "memfd_create"):
            self._file = os.memfd_create("dinov3-loader")
        else:  # not Linux
            self._file, path = tempfile.mkstemp(prefix="dinov3-loader-")
            os.unlink(path)
        os.ftruncate(self._file, nbytes)
        self._map()

    def _map(self) -> None:
        mapped = mmap.mmap(self._file, self.nbytes)
        self.tensor: Tensor = torch.from_numpy(np.frombuffer(mapped, dtype=np.uint8))  # keeps the mapping alive

    def __getstate__(self) -> dict[str, Any]:
        return {"nbytes": self.nbytes, "file": DupFd(self._file)}  # works only while a process is being started

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.nbytes, self._file = state["nbytes"], state["file"].detach()
        self._map()

    def __del__(self) -> None:
        os.close(self._file)  # the mapping stays as long as the tensor


class Ring:
    """``slots`` equal stretches of shared memory, used in turn: batch n lies in slot n % slots."""

    def __init__(self, slots: int, slot_bytes: int) -> None:
        self.slots, self.slot_bytes = slots, slot_bytes
        self.memory = SharedBytes(slots * slot_bytes)

    def slot(self, batch: int) -> Tensor:
        """The memory of batch number ``batch``: ``[slot_bytes]`` uint8."""
        start = batch % self.slots * self.slot_bytes
        return self.memory.tensor[start : start + self.slot_bytes]
