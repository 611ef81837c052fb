"""Low-rank changes of linear layers (Hu et al. 2021): y = W x + b + alpha / rank * B A x, with W and b as they were.

An adapter hangs beside its layer, whose own names stay: ``blocks.0.attn.qkv.weight`` and ``blocks.0.attn.qkv.lora.a``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

NAME = "lora"


class LowRank(nn.Module):
    """``scale * B A x``; ``b`` starts at 0, so that nothing has changed yet."""

    def __init__(self, layer: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.a = nn.Parameter(layer.weight.new_empty(rank, layer.in_features))
        self.b = nn.Parameter(layer.weight.new_empty(layer.out_features, rank))

    def init_weights(self, generator: torch.Generator | None) -> None:
        bound = 1 / math.sqrt(self.a.shape[1])
        nn.init.uniform_(self.a, -bound, bound, generator=generator)
        nn.init.zeros_(self.b)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.a), self.b) * self.scale

    def change(self) -> Tensor:
        """What is added to the weight, ``[out, in]``, sharded as ``b`` is."""
        a: Tensor = self.a
        if isinstance(a, DTensor):
            a = a.redistribute(placements=[Replicate()] * a.device_mesh.ndim)
        return self.scale * (self.b @ a)


def add_lora(
    model: nn.Module, targets: Sequence[str], rank: int, alpha: float, generator: torch.Generator | None
) -> int:
    """Give every linear layer of ``model`` whose last name is one of ``targets`` an adapter; nothing else trains then.

    Returns the number of parameters that train. ValueError when no layer has such a name, or there are adapters already.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if any(isinstance(module, LowRank) for module in model.modules()):
        raise ValueError("the model has LoRA adapters already")
    chosen = {name: layer for name, layer in layers.items() if name.rpartition(".")[2] in targets}
    if not chosen:
        names = sorted({name.rpartition(".")[2] for name in layers})
        raise ValueError(f"lora.targets {list(targets)}: no linear layer is called so; there are {names}")
    model.requires_grad_(False)
    for layer in chosen.values():
        adapter = LowRank(layer, rank, alpha)
        adapter.init_weights(generator)
        layer.register_module(NAME, adapter)
        layer.register_forward_hook(_add)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    change: Tensor = getattr(layer, NAME)(inputs[0])
    return output + change


@torch.no_grad()
def merged_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Parameters by name, each adapter added to its layer's weight and left out itself."""
    merged: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if NAME not in name.split(".")}
    for name, module in model.named_modules():
        if isinstance(module, LowRank):
            weight = f"{name.removesuffix(NAME)}weight"
            merged[weight] = merged[weight] + module.change()
    return merged
