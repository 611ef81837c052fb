"""The kernels of ``turned_heads``, run by Triton's interpreter: prints how far each case is from the operators, relative to
the largest entry.

A process of its own: triton decides when it is imported whether it interprets.
"""

from __future__ import annotations

import json
import os

os.environ["TRITON_INTERPRET"] = "1"

import torch
from torch import Tensor

from dinov3.models.rotary import turned_heads_kernels
from dinov3.models.rotary.turned_heads import turned_heads, turned_heads_backward

FP32, BF16 = torch.float32, torch.bfloat16


def gap(ours: Tensor, expected: Tensor) -> float:
    assert ours.shape == expected.shape
    assert ours.dtype == expected.dtype
    if not ours.numel():
        return 0.0
    return float((ours.float() - expected.float()).abs().max() / expected.float().abs().max())


def differences(
    n: int,
    tokens: int,
    heads: int,
    width: int,
    *,
    dtype: torch.dtype = FP32,
    table: torch.dtype = FP32,
    strided: bool = False,
) -> list[float]:
    """Of queries, keys, values and the gradient."""
    generator = torch.Generator().manual_seed(n)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    # tables without a pattern: nothing is right by symmetry
    cos, sin = draw(tokens, width).to(table), draw(tokens, width).to(table)
    qkv = draw(n, tokens, 3 * heads * width).to(dtype)
    ours, expected = turned_heads_kernels.turn(qkv, cos, sin, heads), turned_heads(qkv, cos, sin, heads)
    given = [draw(n, heads, tokens, width).to(dtype).transpose(1, 2) for _ in range(3)]
    if strided:  # one of each kind that attention may give: a slice, one without a last stride of 1, one expanded
        given[0] = draw(n, tokens, heads, 2 * width).to(dtype)[..., width:]
        given[1] = draw(n, tokens, width, heads).to(dtype).transpose(2, 3)
        given[2] = draw(1, tokens, 1, width).to(dtype).expand(n, tokens, heads, width)
    back = turned_heads_kernels.turn_back(*given, cos, sin), turned_heads_backward(*given, cos, sin)
    return [*(gap(a, b) for a, b in zip(ours, expected, strict=True)), gap(*back)]


def main() -> None:
    turned_heads_kernels.TOKENS = 16  # several programs, the last one not full
    found = {
        "fp32": differences(3, 7, 2, 8),
        "bf16": differences(3, 7, 2, 8, dtype=BF16),
        "bf16 tables": differences(2, 9, 3, 8, table=BF16),
        "all bf16": differences(2, 9, 3, 8, dtype=BF16, table=BF16),
        "heads of 64": differences(2, 21, 2, 64),
        "half of 6": differences(5, 5, 2, 12),
        "one token": differences(1, 1, 1, 4),
        "nothing": differences(0, 5, 2, 8),
        "strided gradients": differences(3, 7, 2, 8, strided=True),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
