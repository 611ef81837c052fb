"""Linear layers whose weights are 8-bit integers, row by row symmetric, as torchao 0.18 makes them.

For a row w: scale = max |w| / 127.5, q = clamp(round(w * (1 / scale)), -128, 127). "weight_only" multiplies floats with
the integers; "dynamic" rounds every token by the same rule first and multiplies integers. The rule, not the library, is
what a file depends on: it is read where torchao is not installed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3.models.attention import KeyBiasMaskedLinear
from dinov3.models.vit_config import INT8_KINDS

HALF_RANGE = 127.5
SMALLEST_SCALE = torch.finfo(torch.float32).eps  # of a row of zeros


def row_scales(x: Tensor) -> Tensor:
    """[..., n] -> [...] float32."""
    # CUDA divides by a Python number as a multiplication by its reciprocal, which differs in the last bit
    largest = x.abs().amax(-1).float()
    return (largest / torch.full_like(largest, HALF_RANGE)).clamp_min(SMALLEST_SCALE)


def to_int8(x: Tensor, scales: Tensor) -> Tensor:
    """[..., n] and [...] -> [..., n] int8."""
    # times the reciprocal, as torchao: a division differs in the last bit where a row is largest
    return (x.float() * (1.0 / scales).unsqueeze(-1)).round().clamp(-128, 127).to(torch.int8)


class Int8Linear(nn.Module):
    """``y = x @ (weight * scale)^T + bias`` with ``weight`` [out, in] int8 and ``scale`` [out] float32. Does not train."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, *, bias: bool, kind: str) -> None:
        super().__init__()
        self.in_features, self.out_features, self.kind = in_features, out_features, kind
        self.register_buffer("weight", torch.empty(out_features, in_features, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(out_features, dtype=torch.float32))
        self.register_buffer("bias", torch.empty(out_features) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "weight_only":
            y = F.linear(x, self.weight.to(x.dtype)) * self.scale.to(x.dtype)
        else:
            y = self._integers(x)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def _integers(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        scales = row_scales(rows)  # [S]
        product = _int_matmul(to_int8(rows, scales), self.weight)  # [S, out] int32
        y = product.float() * scales[:, None] * self.scale
        return y.to(x.dtype).reshape(*x.shape[:-1], -1)


def _int_matmul(a: Tensor, b: Tensor) -> Tensor:
    """``a`` [S, in] times the transpose of ``b`` [out, in], both int8, exactly: [S, out] int32."""
    if torch.onnx.is_in_onnx_export():
        return a.to(torch.int32) @ b.to(torch.int32).T
    if a.device.type == "cpu":
        return torch._int_mm(a, b.T)
    # cuBLAS wants more than 16 rows and multiples of 8
    padding = [-a.shape[0] % 8 if a.shape[0] > 16 else 24 - a.shape[0], -a.shape[1] % 8, -b.shape[0] % 8]
    wide = torch._int_mm(F.pad(a, (0, padding[1], 0, padding[0])), F.pad(b, (0, padding[1], 0, padding[2])).T)
    return wide[: a.shape[0], : b.shape[0]]


def make_int8(module: nn.Module, kind: str) -> None:
    """Put an ``Int8Linear`` in the place of every linear layer below ``module``, with its rounded weights.

    ValueError for an unknown ``kind``. Layers on the meta device stay without values.
    """
    if kind not in INT8_KINDS:
        raise ValueError(f"int8 {kind!r}: choose from {INT8_KINDS}")
    for parent in list(module.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear):
                setattr(parent, name, _rounded(layer, kind))


@torch.no_grad()
def _rounded(layer: nn.Linear, kind: str) -> Int8Linear:
    with torch.device(layer.weight.device):
        made = Int8Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, kind=kind)
    if layer.weight.is_meta:
        return made
    made.scale.copy_(row_scales(layer.weight))
    made.weight.copy_(to_int8(layer.weight, made.scale))
    if made.bias is not None:
        made.bias.copy_(layer.effective_bias() if isinstance(layer, KeyBiasMaskedLinear) else layer.bias)
    return made


def weights_in(model: nn.Module) -> int:
    """Parameters, and the integers that stand for some of them."""
    integers = sum(buffer.numel() for buffer in model.buffers() if buffer.dtype == torch.int8)
    biases = sum(
        buffer.numel() for name, buffer in model.named_buffers() if integers and name.endswith(".bias")
    )  # of 8-bit layers, which do not train
    return sum(p.numel() for p in model.parameters()) + integers + biases
