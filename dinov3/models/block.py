"""One transformer block over a packed token matrix."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dinov3.models.attention import SelfAttention
from dinov3.models.checkpointing import CheckpointedBlock
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


class Block(CheckpointedBlock):
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
        return self.checkpointed(run, x)

    def _run(self, x: Tensor, *, sizes: Sizes, rotations: Sequence[Rotation], kept: KeptPair | None) -> Tensor:
        if kept is None:
            x = _add(x, self.attn(self.norm1(x), sizes, rotations), self.ls1)
            return _add(x, self.mlp(self.norm2(x)), self.ls2)  # [S, D]
        y = self.attn(self.norm1(kept.attention.take(x)), kept.attention.sizes, rotations)
        x = kept.attention.add(x, y, self.ls1.gamma if self.ls1 is not None else None)
        y = self.mlp(self.norm2(kept.ffn.take(x)))
        return kept.ffn.add(x, y, self.ls2.gamma if self.ls2 is not None else None)  # [S, D]


def _add(x: Tensor, y: Tensor, scale: LayerScale | None) -> Tensor:
    return x + y if scale is None else torch.addcmul(x, y, scale.gamma)
