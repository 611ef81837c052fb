"""Linear layers whose weights are 4-bit integers in groups, by torchao, for inference. Not measured: no such card was there."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import nn

CAPABILITY = (8, 0)  # of CUDA: Ampere and later, which torchao's int4 kernels ask for
GROUP = 128  # numbers that share a scale: one of 256, 128, 64, 32 that the kernels take


def problem_with(device: torch.device) -> str | None:
    """Why layers on this device cannot be in 4 bits; None when they can."""
    if device.type != "cuda":
        return f"{device.type} has no int4 kernels: a CUDA GPU of capability 8.0 or later is needed"
    if torch.cuda.get_device_capability(device) < CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} has no int4 kernels: capability 8.0 or later is needed"
    return None if find_spec("torchao") is not None else "torchao is not installed: pip install 'dinov3[quant]'"


def group_of(layer: nn.Linear) -> int | None:
    """Numbers that share a scale: GROUP, or less where the layer's width is no multiple of it; None when none fits."""
    return next((size for size in (GROUP, 64, 32) if layer.in_features % size == 0), None)


def to_int4(root: nn.Module) -> int:
    """Convert plain linear layers of ``root``, in bfloat16 on a GPU, in place; how many."""
    from torchao.quantization import Int4WeightOnlyConfig, quantize_

    done = 0
    for size in (GROUP, 64, 32):
        chosen = {name for name, m in root.named_modules() if type(m) is nn.Linear and group_of(m) == size}
        if chosen:
            quantize_(root, Int4WeightOnlyConfig(group_size=size), lambda _, name, chosen=chosen: name in chosen)
        done += len(chosen)
    return done
