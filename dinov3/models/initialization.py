"""Memory and first values of a model's tensors."""

from __future__ import annotations

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
