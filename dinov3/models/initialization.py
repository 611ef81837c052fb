"""Memory and first values of a model's tensors."""

from __future__ import annotations

import math

import torch
from torch import nn

LINEAR_STD = 0.02  # truncated normal, as in ViT and DINO; the cut at +-2 is absolute and never reached


def allocate(module: nn.Module, device: torch.device | str | None) -> None:
    """Give a module built on the meta device memory on ``device`` (None: torch's default), full of NaN.

    NaN, so that a weight neither initialised nor loaded is seen in the first loss. Nothing is drawn from any generator.
    """
    target = torch.get_default_device() if device is None else torch.device(device)
    if target.type == "meta":
        return
    module.to_empty(device=target)
    fill_with_nan(module)


@torch.no_grad()
def init_layers(root: nn.Module, generator: torch.Generator | None) -> None:
    """Linear and Conv2d: truncated normal, bias 0; LayerNorm: 1 and 0. ``generator`` lives on the weights' device."""
    for module in root.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=LINEAR_STD, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


@torch.no_grad()
def fill_with_nan(module: nn.Module) -> None:
    """Every float of ``module``, so that a tensor that ``init_weights`` forgets shows at once."""
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            tensor.fill_(float("nan"))
        else:
            tensor.zero_()  # integers of a compressed model have no NaN


@torch.no_grad()
def init_convolutions(root: nn.Module, generator: torch.Generator | None) -> None:
    """Convolutions of a head, also transposed ones: uniform within 1 / sqrt(inputs of a number), bias 0, as torch's own; norms
    1 and 0. Of a transposed one whose stride is its kernel, one number has as many inputs as there are channels."""
    for module in root.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            fan = module.weight.shape[0] if isinstance(module, nn.ConvTranspose2d) else module.weight[0].numel()
            nn.init.uniform_(module.weight, -1 / math.sqrt(fan), 1 / math.sqrt(fan), generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
