"""Operators for which the host of a GPU must wait: their result is a number, or its size depends on values."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = ("nonzero", "masked_select", "bincount", "unique", "_local_scalar_dense")


class HostWaits(TorchDispatchMode):
    """Remembers those that run under it, in this thread."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        chosen = args[1] if name.startswith(("index", "index_put")) and len(args) > 1 else ()
        by_mask = isinstance(chosen, list | tuple) and any(t is not None and t.dtype == torch.bool for t in chosen)
        if name.startswith(WAITING) or by_mask:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))
