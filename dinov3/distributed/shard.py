"""Models spread over processes with FSDP2, and their whole tensors back."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from dinov3.distributed.context import is_main, world_size
from dinov3.distributed.parallel import Parallel


def shard(model: nn.Module, blocks: Iterable[nn.Module], parallel: Parallel, *, trains: bool) -> None:
    """FSDP2 around each block and around what is left of ``model``, which must then be called, not its blocks.

    Call it after activation checkpointing and compilation, with weights on the meta device or in memory. A model that
    only infers gives its gathered weights back at once, whatever the strategy.
    """
    # Features are views of one matrix; nothing here writes into them.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    wrap = partial(fully_shard, mesh=parallel.mesh(), mp_policy=parallel.policy())
    for block in blocks:
        wrap(block, reshard_after_forward=parallel.reshard_after_forward or not trains)
    # Weights outside the blocks are the last of a forward pass and the first of the backward pass: gathered once.
    wrap(model, reshard_after_forward=not trains)


def shard_frozen(model: nn.Module, blocks: Iterable[nn.Module]) -> bool:
    """FSDP2 for a model that only infers: each process keeps a part of every block and gathers it when it runs.

    Weights keep their dtype. Every process must call ``model`` equally often. False when there is nothing to share
    with: one process.
    """
    if world_size() == 1:
        return False
    for block in blocks:
        fully_shard(block)
    fully_shard(model, reshard_after_forward=True)  # the default keeps the root whole for a backward that never comes
    return True


def compile_forward(module: nn.Module, *, dynamic: bool | None = False, cudagraphs: bool = False) -> None:
    """Compile what ``module`` computes, not the hooks around it: FSDP2 gathers and frees weights in hooks.

    ``dynamic`` as in torch.compile: None where sizes change from step to step. ``cudagraphs``: the whole graph is one
    launch; its results are overwritten in the next step.
    """
    graphs: dict[str, Any] = {"triton.cudagraphs": True}
    module.forward = torch.compile(module.forward, dynamic=dynamic, options=graphs if cudagraphs else None)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


@torch.no_grad()
def fill(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copy whole ``values`` into the parameters and buffers of these names; of a sharded one each process takes its part.

    Every process must hold the same values: nothing is sent. Names and shapes are the caller's to check.
    """
    own = _tensors(module)
    for name, value in values.items():
        target = own[name]
        if isinstance(target, DTensor):
            value = value.to(target.device, target.dtype)
            value = distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)
        target.copy_(value)


def whole(tensor: Tensor) -> Tensor:
    """``tensor`` itself, or all of a sharded one; then every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """``tensor`` itself, or this process's part of a sharded one, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def gather(module: nn.Module, into: Callable[[], nn.Module]) -> nn.Module | None:
    """A whole copy of a sharded ``module`` on the main process, in the memory of ``into()``; None elsewhere.

    Every process must call it. One tensor is gathered at a time.
    """
    copy = into() if is_main() else None
    own = _tensors(copy) if copy is not None else {}
    for name, tensor in _tensors(module).items():
        value = whole(tensor)
        if copy is not None:
            own[name].copy_(value)
    return copy
