"""One transformer block over a packed token matrix."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dinov3.models.attention import SelfAttention
from dinov3.models.checkpointing import CheckpointedBlock, computed_again
from dinov3.models.execution import Executed
from dinov3.models.ffn import FFN_LAYERS
from dinov3.models.norms import NORM_LAYERS
from dinov3.models.packing import Kept, Sizes, pack, unpack
from dinov3.models.rotary.embedding import Rotation
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

    def forward(
        self,
        x: Tensor,
        sizes: Sizes,
        rotations: Sequence[Rotation],
        kept: KeptPair | None = None,
        read: Tensor | None = None,
    ) -> Tensor:
        """``x`` [S, D] packed as ``sizes`` says. ``read``: the only rows ``[M]`` that anybody looks at; the others are not
        finished.
        """
        if read is not None:
            run = partial(self._run_rows, sizes=sizes, rotations=rotations, kept=kept, read=read)
        else:
            run = partial(self._run, sizes=sizes, rotations=rotations, kept=kept)
        return self.checkpointed(run, x) if self.checkpoint_mode == "full" else run(x)

    def _run(self, x: Tensor, *, sizes: Sizes, rotations: Sequence[Rotation], kept: KeptPair | None) -> Tensor:
        attention, ffn = kept or (None, None)
        in_pieces = self.checkpoint_mode == "selective" and torch.is_grad_enabled()
        seen, (before, after) = _Seen(self.norm1, attention), self._gammas(self.ls1)
        sizes = sizes if attention is None else attention.sizes
        if in_pieces:
            y = self._attend_in_pieces(x, seen, sizes, rotations, before)
        else:
            y = self.attn(seen(x), sizes, rotations, gamma=before)
        x = _add(x, y, after, attention)
        seen, (before, after) = _Seen(self.norm2, ffn), self._gammas(self.ls2)
        y = self._feed_in_pieces(x, seen, before) if in_pieces else self.mlp(seen(x), gamma=before)
        return _add(x, y, after, ffn)  # [S, D]

    def _run_rows(
        self, x: Tensor, *, sizes: Sizes, rotations: Sequence[Rotation], kept: KeptPair | None, read: Tensor
    ) -> Tensor:
        """``_run`` whose matrices behind attention see the rows ``read`` only. Dropped ones among them are multiplied by 0."""
        attention, ffn = kept or (None, None)
        before, after = self._gammas(self.ls1)
        inner = sizes if attention is None else attention.sizes
        projected = self.attn.project(_Seen(self.norm1, attention)(x), inner)
        mixed = pack(self.attn.attend(projected, rotations))  # [S', D]
        places = read if attention is None else attention.places(len(x)).index_select(0, read)
        y = self.attn.join(mixed.index_select(0, places)[None], gamma=before)  # [M, D]
        rows = _add(x.index_select(0, read), _weighed(y, attention, len(x), read), after, None)
        before, after = self._gammas(self.ls2)
        y = self.mlp(self.norm2(rows), gamma=before)
        return x.index_copy(0, read, _add(rows, _weighed(y, ffn, len(x), read), after, None))

    # Between pieces, what "selective" keeps: x, queries, keys and values, attention's result, the wide tokens. Norms,
    # GELU and the joined result of attention are a third of a block's bytes and 1 % of its work.
    def _attend_in_pieces(
        self, x: Tensor, seen: _Seen, sizes: Sizes, rotations: Sequence[Rotation], gamma: Tensor | None
    ) -> Tensor:
        entries = unpack(computed_again(lambda x: self.attn.qkv(seen(x)), x), sizes)
        return computed_again(partial(self.attn.join_at_once, gamma=gamma), *self.attn.attend(entries, rotations))

    def _feed_in_pieces(self, x: Tensor, seen: _Seen, gamma: Tensor | None) -> Tensor:
        wide = computed_again(lambda x: self.mlp.widen(seen(x)), x)
        return computed_again(partial(self.mlp.narrow, gamma=gamma), *wide)

    def _gammas(self, scale: LayerScale | None) -> tuple[Tensor | None, Tensor | None]:
        """LayerScale's factor for the matrix before it, or for the branch's result."""
        gamma = None if scale is None else scale.gamma
        return (gamma, None) if self.execution.fused else (None, gamma)


class _Seen(NamedTuple):
    """What a branch is given of the tokens: the kept samples, normed."""

    norm: nn.Module
    kept: Kept | None

    def __call__(self, x: Tensor) -> Tensor:
        return self.norm(x if self.kept is None else self.kept.take(x))


def _weighed(y: Tensor, kept: Kept | None, n_rows: int, read: Tensor) -> Tensor:
    """A branch's result ``[M, D]`` in the rows ``read``, as drop path weighs it."""
    return y if kept is None else y * kept.factors(n_rows).index_select(0, read)[:, None].to(y.dtype)


def _add(x: Tensor, y: Tensor, gamma: Tensor | None, kept: Kept | None) -> Tensor:
    """``x`` plus the branch's result times ``gamma [D]``, in the number format of ``x``."""
    if x.dtype != torch.float32:
        y, gamma = y.to(x.dtype), None if gamma is None else gamma.to(x.dtype)
    if kept is not None:
        return kept.add(x, y, gamma)
    return x + y if gamma is None else torch.addcmul(x, y, gamma)
