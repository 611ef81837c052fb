"""A copy of the state in host memory: it can be written while training changes the original."""

from __future__ import annotations

import torch
from torch import Tensor

from dinov3.distributed.shard import local


class Snapshot:
    """Copies tables of tensors into host memory that is allocated once: as many bytes as this process holds.

    From a GPU the memory is pinned, so that a copy runs at the speed of the bus.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    @torch.no_grad()
    def take(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Copies under the same names, finished on return, valid until the next call; of a sharded tensor the own part."""
        on_gpu = False
        for name, tensor in tensors.items():
            if name not in self._buffers:
                self._buffers[name] = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            local(self._buffers[name]).copy_(local(tensor), non_blocking=tensor.is_cuda)
            on_gpu |= tensor.is_cuda
        if on_gpu:
            torch.cuda.current_stream().synchronize()
        return {name: self._buffers[name] for name in tensors}
