"""Queries, keys and values out of their common projection, the first two rotated, as one operation with its own gradient.

What autograd and a compiler make of ``SelfAttention.heads`` writes the gradients of queries, keys and values one by one
and puts them together afterwards. On GPUs both directions are one kernel each (``turned_heads_kernels``), elsewhere the
operators below, which the kernels are held to.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("dinov3::turned_heads", mutates_args=())
def turned_heads(qkv: Tensor, cos: Tensor, signed_sin: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values ``[N, T, heads, D_head]`` of ``qkv`` [N, T, 3*D]; ``cos`` and ``signed_sin`` [T, D_head] are
    those of ``Rotation``. They are given no gradient.
    """
    q, k, v = qkv.unflatten(2, (3, num_heads, -1)).unbind(2)
    return _turned(q, cos, signed_sin), _turned(k, cos, signed_sin), v.clone(memory_format=torch.contiguous_format)


@torch.library.custom_op("dinov3::turned_heads_backward", mutates_args=())
def turned_heads_backward(dq: Tensor, dk: Tensor, dv: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """The gradient of ``qkv`` [N, T, 3*D] of those of queries, keys and values ``[N, T, heads, D_head]``."""
    turned_back = signed_sin.roll(signed_sin.shape[-1] // 2, -1)
    parts = _turned(dq, cos, turned_back), _turned(dk, cos, turned_back), dv
    return torch.stack(parts, dim=2).flatten(2)


def _turned(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    wide = x.to(cos.dtype)
    swapped = wide.roll(x.shape[-1] // 2, -1)
    return (wide * cos[:, None] + swapped * signed_sin[:, None]).to(x.dtype).contiguous()


@turned_heads.register_fake
def _(qkv: Tensor, cos: Tensor, signed_sin: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    n, t, width = qkv.shape
    q, k, v = (qkv.new_empty(n, t, num_heads, width // 3 // num_heads) for _ in range(3))
    return q, k, v


@turned_heads_backward.register_fake
def _(dq: Tensor, dk: Tensor, dv: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    n, t, heads, width = dq.shape
    return dq.new_empty(n, t, 3 * heads * width)


@turned_heads.register_kernel("cuda")
def _(qkv: Tensor, cos: Tensor, signed_sin: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    from dinov3.models.rotary import turned_heads_kernels  # late: a CPU need not have triton

    return turned_heads_kernels.turn(qkv, cos, signed_sin, num_heads)


@turned_heads_backward.register_kernel("cuda")
def _(dq: Tensor, dk: Tensor, dv: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    from dinov3.models.rotary import turned_heads_kernels

    return turned_heads_kernels.turn_back(dq, dk, dv, cos, signed_sin)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, int], output: Any) -> None:
    _, *tables, _ = inputs
    ctx.save_for_backward(*tables)  # not qkv: the gradient of a rotation does not need what was rotated


def _gradient(ctx: Any, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, None, None, None]:
    return turned_heads_backward(dq, dk, dv, *ctx.saved_tensors), None, None, None


turned_heads.register_autograd(_gradient, setup_context=_keep)
