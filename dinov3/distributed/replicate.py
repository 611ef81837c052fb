"""Data parallelism with a whole copy of the model on every process."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from dinov3.distributed.context import is_initialized, world_size

BUCKET = 1 << 25  # elements of one all-reduce: 128 MB in fp32


@torch.no_grad()
def average_gradients(parameters: Iterable[Tensor], dtype: torch.dtype = torch.float32) -> None:
    """Replace each gradient by its mean over processes, summed in ``dtype``. Every process must have the same gradients set."""
    if not is_initialized():
        return
    bucket: list[Tensor] = []
    for gradient in [p.grad for p in parameters if p.grad is not None]:
        bucket.append(gradient)
        if sum(g.numel() for g in bucket) >= BUCKET:
            _average(bucket, dtype)
            bucket = []
    if bucket:
        _average(bucket, dtype)


def _average(gradients: list[Tensor], dtype: torch.dtype) -> None:
    flat = torch.cat([g.flatten().to(dtype) for g in gradients])
    flat /= world_size()  # before the sum, which could overflow in fp16
    dist.all_reduce(flat)
    parts = flat.split([g.numel() for g in gradients])
    torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(parts, gradients, strict=True)])
