"""Low-rank changes of linear layers (Hu et al. 2021): y = W x + b + scale * B A x, with W and b as they were.

``scale`` is alpha / rank, or alpha / sqrt(rank) (rsLoRA, Kalajdzievski 2023). An adapter hangs beside its layer, whose
own names stay: ``blocks.0.attn.proj.weight`` and ``blocks.0.attn.proj.lora.a``. The targets "q", "k" and "v" are three
adapters on the row blocks of the fused projection, ``blocks.0.attn.qkv.lora.q.a``, as programs with three layers have
them; "qkv" is one adapter of all three, which is another model with fewer parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

from dinov3.models.shapes import Product
from dinov3.models.vit_config import QKV

NAME = "lora"
FUSED = "qkv"
BEFORE = "weight_before_lora"  # a layer's buffer while its adapter is merged


@dataclass(frozen=True)
class LoraSettings:
    """How large and how strong the adapters are."""

    rank: int
    alpha: float
    dropout: float = 0.0  # of what an adapter sees, in training
    rslora: bool = False  # scale alpha / sqrt(rank) in place of alpha / rank

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


class LowRank(nn.Module):
    """``scale * B A x``; ``b`` starts at 0, so that nothing has changed yet."""

    merged = False  # is the change in the layer's weight, so that it must not be added again?

    def __init__(self, weight: Tensor, settings: LoraSettings) -> None:
        """For a matrix ``weight`` [out, in]."""
        super().__init__()
        self.rank, self.alpha, self.rslora = settings.rank, settings.alpha, settings.rslora
        self.scale, self.dropout = settings.scale, settings.dropout
        self.a = nn.Parameter(weight.new_empty(settings.rank, weight.shape[1]))
        self.b = nn.Parameter(weight.new_empty(weight.shape[0], settings.rank))

    def init_weights(self, generator: torch.Generator | None) -> None:
        bound = 1 / math.sqrt(self.a.shape[1])  # Kaiming's uniform with a = sqrt(5), as in peft
        nn.init.uniform_(self.a, -bound, bound, generator=generator)
        nn.init.zeros_(self.b)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(x, self.dropout, self.training) if self.dropout else x
        return F.linear(F.linear(x, self.a), self.b) * self.scale

    def change(self) -> Tensor:
        """What is added to the weight, ``[out, in]``, sharded as ``b`` is."""
        a: Tensor = self.a
        if isinstance(a, DTensor):
            a = a.redistribute(placements=[Replicate()] * a.device_mesh.ndim)
        return self.scale * (self.b @ a)


class RowBlocks(nn.ModuleDict):
    """Adapters of the row blocks q, k, v of one fused matrix; those that are missing change nothing."""

    merged = False

    def forward(self, x: Tensor) -> Tensor:
        found = {name: self[name](x) for name in self}
        empty = torch.zeros_like(next(iter(found.values())))
        return torch.cat([found.get(name, empty) for name in QKV], dim=-1)

    def change(self) -> Tensor:
        """``[out, in]``; of sharded adapters every process gets the whole."""
        found = {name: _whole(cast(LowRank, self[name]).change()) for name in self}
        empty = torch.zeros_like(next(iter(found.values())))
        return torch.cat([found.get(name, empty) for name in QKV])


Adapter = LowRank | RowBlocks


def _whole(change: Tensor) -> Tensor:
    # concatenation needs whole row blocks; as a DTensor, so that it can be added to a sharded weight
    return (
        change.redistribute(placements=[Replicate()] * change.device_mesh.ndim)
        if isinstance(change, DTensor)
        else change
    )


def add_lora(
    model: nn.Module,
    targets: Sequence[str],
    rank: int,
    alpha: float,
    generator: torch.Generator | None,
    *,
    dropout: float = 0.0,
    rslora: bool = False,
) -> int:
    """Give every linear layer of ``model`` whose last name is one of ``targets`` an adapter; nothing else trains then.

    "q", "k", "v" name row blocks of a layer called "qkv". Returns the number of parameters that train. ValueError when a
    target names no layer, when one is a product of two matrices, or there are adapters already.
    """
    layers: dict[str, nn.Module] = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | Product)}
    if any(isinstance(module, LowRank) for module in model.modules()):
        raise ValueError("the model has LoRA adapters already")
    names = {name: _wanted(name.rpartition(".")[2], targets) for name in layers}
    _check_targets(layers, names, targets)
    settings = LoraSettings(rank, alpha, dropout, rslora)
    model.requires_grad_(False)
    for name, wanted in names.items():
        if not wanted:
            continue
        layer = cast(nn.Linear, layers[name])
        adapter = _adapter(layer, wanted, settings, generator, fused=name.rpartition(".")[2] == FUSED)
        layer.register_module(NAME, adapter.train(layer.training))  # a new module trains: its dropout would act
        layer.register_forward_hook(_add)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _wanted(layer: str, targets: Sequence[str]) -> list[str]:
    """What ``targets`` ask of a layer with this last name: itself, or some of its row blocks."""
    blocks = [name for name in QKV if name in targets] if layer == FUSED else []
    return [*([layer] if layer in targets else []), *blocks]


def _check_targets(layers: dict[str, nn.Module], names: dict[str, list[str]], targets: Sequence[str]) -> None:
    found = {target for wanted in names.values() for target in wanted}
    if not found:
        known = sorted({name.rpartition(".")[2] for name in layers})
        known += [f"{q} (rows of {FUSED})" for q in QKV if FUSED in known]
        raise ValueError(f"lora.targets {list(targets)}: no linear layer is called so; there are {known}")
    if FUSED in found and found & set(QKV):
        raise ValueError(f"lora.targets {list(targets)}: {FUSED} and its row blocks {list(QKV)} exclude each other")
    products = sorted({one for name, wanted in names.items() if isinstance(layers[name], Product) for one in wanted})
    if products:
        raise ValueError(
            f"lora.targets {list(targets)}: products of two matrices (of an SVD) take no adapter, here {', '.join(products)}: "
            "leave them out, or use fullft"
        )


def _adapter(
    layer: nn.Linear, wanted: list[str], settings: LoraSettings, generator: torch.Generator | None, *, fused: bool
) -> Adapter:
    parts = dict(zip(QKV, layer.weight.chunk(3), strict=True)) if fused and wanted != [FUSED] else {}
    made = {name: LowRank(parts.get(name, layer.weight), settings) for name in wanted}
    for part in made.values():
        part.init_weights(generator)
    return RowBlocks(made) if parts else made[wanted[0]]


def _add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    adapter = cast(Adapter, getattr(layer, NAME))
    return output if adapter.merged else output + adapter(inputs[0])


def adapters_of(model: nn.Module) -> dict[str, Adapter]:
    """The adapter of each layer that has one, by the layer's name."""
    found = {n.removesuffix(f".{NAME}"): m for n, m in model.named_modules() if n.rpartition(".")[2] == NAME}
    return {name: cast(Adapter, module) for name, module in found.items()}


@torch.no_grad()
def merge_lora(model: nn.Module) -> None:
    """Add every change to its layer's weight, in place: the model is as fast as without adapters.

    The weights of before are kept until ``unmerge_lora`` puts them back, bit for bit. ValueError when merged already.
    """
    for name, adapter in adapters_of(model).items():
        if adapter.merged:
            raise ValueError(f"{name}: its adapter is merged already")
        layer = cast(nn.Linear, model.get_submodule(name))
        layer.register_buffer(BEFORE, layer.weight.detach().clone(), persistent=False)
        layer.weight.copy_(layer.weight + adapter.change())
        adapter.merged = True


@torch.no_grad()
def unmerge_lora(model: nn.Module) -> None:
    """Undo ``merge_lora``. ValueError when nothing is merged."""
    for name, adapter in adapters_of(model).items():
        if not adapter.merged:
            raise ValueError(f"{name}: its adapter is not merged")
        layer = cast(nn.Linear, model.get_submodule(name))
        layer.weight.copy_(layer.get_buffer(BEFORE))
        delattr(layer, BEFORE)
        adapter.merged = False


@torch.no_grad()
def merged_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Parameters by name, each adapter added to its layer's weight and left out itself."""
    merged: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if NAME not in name.split(".")}
    for name, adapter in adapters_of(model).items():
        if not adapter.merged:
            weight = f"{name}.weight"
            merged[weight] = merged[weight] + adapter.change()
    return merged
