"""One transformer block over a packed token matrix."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dinov3.models.attention import SelfAttention
from dinov3.models.checkpointing import CheckpointedBlock
from dinov3.models.execution import Executed
from dinov3.models.ffn import FFN_LAYERS
from dinov3.models.norms import NORM_LAYERS
from dinov3.models.packing import Kept, Sizes
from dinov3.models.rope import Rotation
from dinov3.models.vit_config import VitConfig


class LayerScale(nn.Module):
    """Holds the per-channel factor of a residual branch (Touvron et al. 2021, CaiT); the block applies it."""

    def __init__(self, dim: int, init: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(dim))
        self.init = init

    def init_weights(self) -> None:
        nn.init.constant_(self.gamma, self.init)


class KeptPair(NamedTuple):
    """Which samples the two branches of a block see."""

    attention: Kept
    ffn: Kept


class Block(CheckpointedBlock, Executed):
    """x + ls1(attn(norm1(x))), then x + ls2(mlp(norm2(x))). It draws nothing: the kept samples come as an argument."""

    def __init__(self, cfg: VitConfig) -> None:
        super().__init__()
        dim, norm, ffn = cfg.embed_dim, NORM_LAYERS[cfg.norm_layer], FFN_LAYERS[cfg.ffn_layer]
        self.norm1 = norm(dim)
        self.attn = SelfAttention(
            dim, cfg.num_heads, qkv_bias=cfg.qkv_bias, proj_bias=cfg.proj_bias, mask_k_bias=cfg.mask_k_bias
        )
        self.ls1 = LayerScale(dim, cfg.layerscale_init) if cfg.layerscale_init else None
        self.norm2 = norm(dim)
        self.mlp = ffn(dim, cfg.ffn_ratio, cfg.ffn_bias)
        self.ls2 = LayerScale(dim, cfg.layerscale_init) if cfg.layerscale_init else None

    def forward(self, x: Tensor, sizes: Sizes, rotations: Sequence[Rotation], kept: KeptPair | None = None) -> Tensor:
        """``x`` [S, D] packed as ``sizes`` says."""
        run = partial(self._run, sizes=sizes, rotations=rotations, kept=kept)
        return self.checkpointed(run, x) if self.checkpoint_mode == "full" else run(x)

    def _run(self, x: Tensor, *, sizes: Sizes, rotations: Sequence[Rotation], kept: KeptPair | None) -> Tensor:
        """Between pieces, what "selective" keeps: x, queries, keys and values, attention's result, the wide tokens.

        Norms, GELU and the joined result of attention are 30 % of a block's bytes and 1 % of its work.
        """
        attention, ffn = kept or (None, None)
        qkv = self.cheaply(lambda x: self.attn.qkv(self.norm1(_seen(x, attention))), x)
        seen = self.attn.attend(qkv, sizes if attention is None else attention.sizes, rotations)
        before, after = self._gammas(self.ls1)
        y = self.cheaply(partial(self.attn.join, gamma=before), *seen)
        x = _add(x, y, after, attention)
        wide = self.cheaply(lambda x: self.mlp.widen(self.norm2(_seen(x, ffn))), x)
        before, after = self._gammas(self.ls2)
        y = self.cheaply(partial(self.mlp.narrow, gamma=before), *wide)
        return _add(x, y, after, ffn)  # [S, D]

    def _gammas(self, scale: LayerScale | None) -> tuple[Tensor | None, Tensor | None]:
        """LayerScale's factor for the matrix before it, or for the branch's result."""
        gamma = None if scale is None else scale.gamma
        return (gamma, None) if self.execution.fused else (None, gamma)


def _seen(x: Tensor, kept: Kept | None) -> Tensor:
    return x if kept is None else kept.take(x)


def _add(x: Tensor, y: Tensor, gamma: Tensor | None, kept: Kept | None) -> Tensor:
    """``x`` plus the branch's result times ``gamma [D]``, in the number format of ``x``."""
    if x.dtype != torch.float32:
        y, gamma = y.to(x.dtype), None if gamma is None else gamma.to(x.dtype)
    if kept is not None:
        return kept.add(x, y, gamma)
    return x + y if gamma is None else torch.addcmul(x, y, gamma)
