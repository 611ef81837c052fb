"""The kernels of ``turned_heads``, in Triton. A program turns all heads of some tokens, whose angles it reads once."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TOKENS = 32  # a program


@triton.jit
def _angles(cos, signed_sin, token, inside, HALF: tl.constexpr, PADDED: tl.constexpr):
    """Cosines and signed sines of both halves of a head ``[tokens, D_head / 2]``, and which entries are real."""
    column = tl.arange(0, PADDED)
    real = inside[:, None] & (column < HALF)[None, :]
    place = token[:, None] * (2 * HALF) + column[None, :]
    cos1 = tl.load(cos + place, mask=real, other=0).to(tl.float32)
    cos2 = tl.load(cos + place + HALF, mask=real, other=0).to(tl.float32)
    sin1 = tl.load(signed_sin + place, mask=real, other=0).to(tl.float32)
    sin2 = tl.load(signed_sin + place + HALF, mask=real, other=0).to(tl.float32)
    return cos1, cos2, sin1, sin2, real


@triton.jit
def _turn(source, target, cos1, cos2, sin1, sin2, real, table: tl.constexpr, HALF: tl.constexpr):
    """One head, in the number format of the table, as ``Rotation.apply`` turns it but rounded once, at the end."""
    x1 = tl.load(source, mask=real, other=0).to(table).to(tl.float32)
    x2 = tl.load(source + HALF, mask=real, other=0).to(table).to(tl.float32)
    kind: tl.constexpr = target.dtype.element_ty
    tl.store(target, (x1 * cos1 + x2 * sin1).to(table).to(kind), mask=real)
    tl.store(target + HALF, (x2 * cos2 + x1 * sin2).to(table).to(kind), mask=real)


@triton.jit
def _copy(source, target, real, HALF: tl.constexpr):
    tl.store(target, tl.load(source, mask=real, other=0), mask=real)
    tl.store(target + HALF, tl.load(source + HALF, mask=real, other=0), mask=real)


@triton.jit
def _forward(
    qkv, cos, signed_sin, q, k, v, rows, tokens, heads, row_stride,
    SIZE: tl.constexpr, HALF: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    cos1, cos2, sin1, sin2, real = _angles(cos, signed_sin, row % tokens, row < rows, HALF, PADDED)
    table: tl.constexpr = cos.dtype.element_ty
    width = heads * 2 * HALF
    column = tl.arange(0, PADDED)[None, :]
    for head in range(heads):
        source = qkv + row[:, None] * row_stride + head * 2 * HALF + column
        target = row[:, None] * width + head * 2 * HALF + column
        _turn(source, q + target, cos1, cos2, sin1, sin2, real, table, HALF)
        _turn(source + width, k + target, cos1, cos2, sin1, sin2, real, table, HALF)
        _copy(source + 2 * width, v + target, real, HALF)


@triton.jit
def _backward(
    dq, dk, dv, cos, signed_sin, dqkv, rows, tokens, heads,
    q_image, q_token, q_head, k_image, k_token, k_head, v_image, v_token, v_head,
    SIZE: tl.constexpr, HALF: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    image, token = row // tokens, row % tokens
    cos1, cos2, sin1, sin2, real = _angles(cos, signed_sin, token, row < rows, HALF, PADDED)
    table: tl.constexpr = cos.dtype.element_ty
    width = heads * 2 * HALF
    column = tl.arange(0, PADDED)[None, :]
    q_row = dq + (image * q_image + token * q_token)[:, None] + column
    k_row = dk + (image * k_image + token * k_token)[:, None] + column
    v_row = dv + (image * v_image + token * v_token)[:, None] + column
    for head in range(heads):
        target = dqkv + row[:, None] * (3 * width) + head * 2 * HALF + column
        # the transpose of a rotation: the sines of both halves change places
        _turn(q_row + head * q_head, target, cos1, cos2, sin2, sin1, real, table, HALF)
        _turn(k_row + head * k_head, target + width, cos1, cos2, sin2, sin1, real, table, HALF)
        _copy(v_row + head * v_head, target + 2 * width, real, HALF)


def turn(qkv: Tensor, cos: Tensor, signed_sin: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """``turned_heads`` on a GPU."""
    n, t, width = qkv.shape
    qkv = qkv.contiguous()
    q, k, v = (qkv.new_empty(n, t, num_heads, width // 3 // num_heads) for _ in range(3))
    sizes = (n * t, t, num_heads, width)
    _start(_forward, (qkv, cos.contiguous(), signed_sin.contiguous(), q, k, v, *sizes), n * t, q.shape[-1])
    return q, k, v


def turn_back(dq: Tensor, dk: Tensor, dv: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """``turned_heads_backward`` on a GPU. Gradients may have any strides: attention gives them as it likes."""
    n, t, heads, width = dq.shape
    entries = [x if x.stride(-1) == 1 else x.contiguous() for x in (dq, dk, dv)]
    strides = [s for x in entries for s in x.stride()[:3]]
    dqkv = dq.new_empty(n, t, 3 * heads * width)
    tables = cos.contiguous(), signed_sin.contiguous()
    _start(_backward, (*entries, *tables, dqkv, n * t, t, heads, *strides), n * t, width)
    return dqkv


def _start(kernel: Any, arguments: tuple[Any, ...], rows: int, width: int) -> None:
    if rows:
        half = width // 2
        sizes = {"SIZE": TOKENS, "HALF": half, "PADDED": triton.next_power_of_2(half)}
        with torch.cuda.device_of(arguments[0]):  # triton starts kernels on the current device
            kernel[triton.cdiv(rows, TOKENS), 1, 1](*arguments, **sizes)
