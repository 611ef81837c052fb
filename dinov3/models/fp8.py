"""Linear layers whose matrix products run in fp8, by torchao. Not measured: no such card was there."""

from __future__ import annotations

import re
from importlib.util import find_spec

import torch
from torch import nn

CAPABILITY = (8, 9)  # of CUDA: Ada, Hopper and later have fp8 units
MULTIPLE = 16  # fp8 products want both sides of a matrix to be multiples of it


def problem_with(device: torch.device) -> str | None:
    """Why layers on this device cannot compute in fp8; None when they can."""
    if device.type != "cuda":
        return f"{device.type} has no fp8"
    if torch.cuda.get_device_capability(device) < CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} has no fp8"
    return None if find_spec("torchao") is not None else "torchao is not installed (pip install 'dinov3[fp8]')"


def layers_for(root: nn.Module, pattern: str) -> list[str]:
    """Names in ``root`` of the layers that can: plain ones of fitting sides whose name ``pattern`` is found in.

    The query, key and value layer of a model with a masked key bias is not plain and stays as it is.
    """
    wanted = re.compile(pattern)
    return [
        name
        for name, module in root.named_modules()
        if type(module) is nn.Linear
        and wanted.search(name)
        and module.in_features % MULTIPLE == 0
        and module.out_features % MULTIPLE == 0
    ]


def compute_in_fp8(root: nn.Module, pattern: str, *, emulate: bool = False) -> int:
    """Convert these layers in place; names of weights stay. Returns how many. Before compilation and sharding.

    Inputs, weights and gradients are scaled by their largest number in each product ("dynamic tensorwise", Micikevicius et
    al. 2022, FP8 Formats for Deep Learning). ``emulate``: the same rounding on a device without fp8, slowly.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    chosen = set(layers_for(root, pattern))
    convert_to_float8_training(
        root, config=Float8LinearConfig(emulate=emulate), module_filter_fn=lambda module, name: name in chosen
    )
    return len(chosen)
