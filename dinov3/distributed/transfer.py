"""Numbers between host and device without a wait for the device's queue."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def send(x: Tensor, device: torch.device) -> Tensor:
    """``x`` of the host on ``device``, without waiting for it: from page-locked memory to a GPU."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


class Later:
    """Small results of the device, read by the host after it has given the device more to do.

    ``read`` waits for what was queued before this object was made, not for what came after.
    """

    def __init__(self, x: Tensor) -> None:
        self._copy, self._done = x, None
        if x.device.type == "cuda":
            self._copy = torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)
            self._done = torch.cuda.current_stream(x.device).record_event()

    def read(self) -> Any:
        """The numbers, as ``Tensor.tolist`` gives them."""
        if self._done is not None:
            self._done.synchronize()
        return self._copy.tolist()
