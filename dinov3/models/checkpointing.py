"""Activation checkpointing of a block: trade recomputation for memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

CheckpointMode = Literal["none", "selective", "full"]
Result = TypeVar("Result")

_aten = torch.ops.aten
# What "selective" keeps of a block that is one piece: results of matrix products, convolutions and attention.
SAVED_OPS = [
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten.convolution.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
]


class CheckpointedBlock(nn.Module):
    """A block that keeps for the backward pass what ``checkpoint_mode`` says.

    The checkpoint is inside ``forward``, so that torch.compile and FSDP2 wrap around it.
    """

    checkpoint_mode: CheckpointMode = "none"

    def checkpointed(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """``function(x)``. ``function`` must not draw random numbers: it may run twice."""
        if self.checkpoint_mode == "none" or not torch.is_grad_enabled():
            return function(x)
        if self.checkpoint_mode == "full":
            return checkpoint(function, x, use_reentrant=False, preserve_rng_state=False)
        contexts = partial(create_selective_checkpoint_contexts, SAVED_OPS)
        return checkpoint(function, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


def computed_again(piece: Callable[..., Result], *inputs: Tensor) -> Result:
    """``piece(*inputs)``, of which the backward pass keeps ``inputs`` and computes the rest again: for what is little
    work for the bytes it would keep.

    A piece may end with a matrix product: recomputation stops in front of it.
    """
    result: Result = checkpoint(piece, *inputs, use_reentrant=False, preserve_rng_state=False)
    return result


def set_mode(root: nn.Module, mode: CheckpointMode) -> None:
    """Give every block of ``root`` the mode; ValueError when it is none of the three."""
    if mode not in get_args(CheckpointMode):
        raise ValueError(f"checkpointing mode {mode!r}: choose from {get_args(CheckpointMode)}")
    for module in root.modules():
        if isinstance(module, CheckpointedBlock):
            module.checkpoint_mode = mode
