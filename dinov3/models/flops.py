"""Floating-point operations of one forward pass."""

from __future__ import annotations

from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import get_shape
from torch import nn

NOT_COUNTED = {"layer_norm", "batch_norm", "group_norm", "upsample_bilinear2d"}


def attention_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """Multiply-adds of q k^T and of its product with v: fvcore does not know scaled_dot_product_attention."""
    query, key = get_shape(inputs[0]), get_shape(inputs[1])  # [N, heads, T, D_head]
    crops, heads, queries, width = query
    return 2 * crops * heads * queries * key[2] * width


def forward_flops(model: nn.Module, size: int, in_chans: int = 3) -> int:
    """2 x multiply-adds of all matrix products, convolutions and attention of one ``size`` x ``size`` image.

    Norms, activations and softmax are not counted. The model may live on the meta device; its mode is kept.
    """
    device = next(model.parameters()).device
    was_training = model.training
    analysis = FlopCountAnalysis(model.eval(), torch.zeros(1, in_chans, size, size, device=device))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    analysis.set_op_handle("aten::scaled_dot_product_attention", attention_macs)
    macs = sum(count for op, count in analysis.by_operator().items() if op not in NOT_COUNTED)
    model.train(was_training)
    return int(2 * macs)
