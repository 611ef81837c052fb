"""Multi-head self-attention over a packed token matrix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from dinov3.models.execution import Executed
from dinov3.models.packing import Sizes, pack, unpack
from dinov3.models.rotary.embedding import Rotation
from dinov3.models.rotary.turned_heads import turned_heads
from dinov3.models.scaling import scaled

SHORT = 64
"""At most this many tokens a crop make short sequences, for which torch's choice on Hopper is the slower one: forward and
backward of 1,024 local crops of 54 tokens take 0.86 ms with cuDNN's kernels, 0.53 ms with the memory-efficient ones (H200,
12 heads); of 256 global crops of 261 tokens 1.30 and 2.78 ms.
"""
LONG = 512
"""More tokens a crop are too many for matrices of T x T to be kept for the backward pass."""


class KeyBiasMaskedLinear(nn.Linear):
    """The qkv projection without a bias on the keys.

    softmax(q k^T) does not change when every key moves by the same vector, so the key bias is a free parameter that
    only drifts. A buffer of 1 (queries, values) and 0 (keys) multiplies the bias; published weights contain it.
    """

    bias_mask: Tensor

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.register_buffer("bias_mask", torch.empty(out_features))

    @torch.no_grad()
    def init_mask(self) -> None:
        self.bias_mask.fill_(1.0)
        self.bias_mask.chunk(3)[1].zero_()

    def effective_bias(self) -> Tensor:
        """The bias as it acts: a masked entry is 0 whatever it holds, NaN included."""
        return torch.where(self.bias_mask == 0, 0.0, self.bias * self.bias_mask.to(self.bias.dtype))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias * self.bias_mask.to(self.bias.dtype))


class SelfAttention(Executed):
    """Softmax attention with rotary positions (Vaswani et al. 2017), every entry of the packed matrix for itself."""

    def __init__(self, dim: int, num_heads: int, *, qkv_bias: bool, proj_bias: bool, mask_k_bias: bool) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        masked = qkv_bias and mask_k_bias
        self.qkv = KeyBiasMaskedLinear(dim, 3 * dim) if masked else nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim, bias=proj_bias)

    def forward(self, x: Tensor, sizes: Sizes, rotations: Sequence[Rotation], gamma: Tensor | None = None) -> Tensor:
        """``x`` [S, D] packed as ``sizes`` says; one rotation an entry. The result is times ``gamma [D]``."""
        return self.join(*self.attend(self.project(x, sizes), rotations), gamma=gamma)  # [S, D]

    def project(self, x: Tensor, sizes: Sizes) -> list[Tensor]:
        """Queries, keys and values of each entry ``[N, T, 3*D]``, from ``x`` [S, D].

        One product an entry, as behind attention: the gradients of one product for all would have to be packed first,
        and what attention gives, too, which is copied anyway when the branch is added.
        """
        return [self.qkv(entry) for entry in unpack(x, sizes)]

    def attend(self, entries: Sequence[Tensor], rotations: Sequence[Rotation]) -> list[Tensor]:
        """What the tokens of each entry ``[N, T, D]`` see, from its ``[N, T, 3*D]``."""
        return [self._attend(*pair) for pair in zip(entries, rotations, strict=True)]

    def join(self, *entries: Tensor, gamma: Tensor | None = None) -> Tensor:
        """The last matrix over entries ``[N, T, D]``, times ``gamma [D]``: ``[S, D]``."""
        return pack([scaled(self.proj, entry, gamma) for entry in entries])

    def join_at_once(self, *entries: Tensor, gamma: Tensor | None = None) -> Tensor:
        """``join`` with one product at its end, in front of which recomputation stops."""
        return scaled(self.proj, pack(entries), gamma)

    def heads(self, qkv: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys (both rotated) and values, [N, heads, T, D_head] each, of projected tokens ``qkv`` [N, T, 3*D]."""
        if self.execution.fused_rotation and torch.is_grad_enabled():
            q, k, v = turned_heads(qkv, rotation.cos, rotation.signed_sin, self.num_heads)
            return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        qkv = qkv.unflatten(2, (3, self.num_heads, self.head_dim))  # [N, T, 3, heads, D_head]
        qk, v = qkv.split([2, 1], dim=2)
        q, k = rotation.apply(qk).unbind(2)  # [N, T, heads, D_head]
        if torch.is_grad_enabled():
            v = v.clone()  # as a view it would keep all of qkv alive until the backward pass: 10 % of a block's memory
        return q.transpose(1, 2), k.transpose(1, 2), v.squeeze(2).transpose(1, 2)

    def _attend(self, qkv: Tensor, rotation: Rotation) -> Tensor:
        q, k, v = self.heads(qkv, rotation)
        return attention(q, k, v, written_out=self.execution.written_out).transpose(1, 2).flatten(2)  # [N, T, D]


def attention(q: Tensor, k: Tensor, v: Tensor, *, written_out: bool) -> Tensor:
    """Softmax attention ``[N, heads, T, D_head]``, by the kernels that are fastest for T; ``written_out``: without them where
    a CPU trains in bf16."""
    if q.device.type == "cuda" and q.shape[2] <= SHORT and q.dtype != torch.float32:
        with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
            return F.scaled_dot_product_attention(q, k, v)
    if written_out and q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad:
        return _trained_in_bf16_on_a_cpu(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


def _trained_in_bf16_on_a_cpu(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same in bf16 with a backward pass that does without torch's kernel.

    That one multiplies no bf16 matrices: on a Xeon with AMX, one thread, forward and backward of 64 crops of 37 tokens (6
    heads of 64) take 7 + 122 ms with it, 8 + 10 written out, of 16 crops of 197 tokens 14 + 99 and 20 + 28.
    """
    if q.shape[2] > LONG:
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(v.dtype)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # [N, heads, T, T]
    return scores.softmax(-1).to(v.dtype) @ v
