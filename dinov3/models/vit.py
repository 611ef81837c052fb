"""The vision transformer of DINOv3: rotary positions, storage tokens, several crop sizes in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dinov3.contracts import Features
from dinov3.models.attention import KeyBiasMaskedLinear
from dinov3.models.backbone import Backbone, pick
from dinov3.models.block import Block, KeptPair, LayerScale
from dinov3.models.execution import Executed
from dinov3.models.initialization import allocate, init_layers
from dinov3.models.norms import NORM_LAYERS, RMSNorm
from dinov3.models.packing import Kept, Sizes, draw_at_once, pack, unpack
from dinov3.models.patch_embed import Grid, PatchEmbed, WhitenedStem
from dinov3.models.rotary.embedding import RopePositionEmbedding, Rotation
from dinov3.models.shapes import reshape_blocks
from dinov3.models.vit_config import VitConfig

TOKEN_STD = 0.02


def _stem(cfg: VitConfig) -> PatchEmbed:
    if cfg.stem_filters is not None:
        return WhitenedStem(cfg.patch_size, cfg.in_chans, cfg.embed_dim, cfg.stem_filters)
    return PatchEmbed(cfg.patch_size, cfg.in_chans, cfg.embed_dim)


class DinoVisionTransformer(Backbone, Executed):
    """Vision transformer with the arguments, state-dict names and numbers of DINOv3 (Simeoni et al. 2025).

    Keyword arguments are the fields of ``VitConfig``. Weights are NaN until ``init_weights`` or ``load_state_dict``.
    """

    def __init__(self, *, device: torch.device | str | None = None, **settings: Any) -> None:
        super().__init__()
        self.config = cfg = VitConfig(**settings)
        self.in_chans, self.stride, self.patch_size = cfg.in_chans, cfg.patch_size, cfg.patch_size
        self.embed_dim, self.n_blocks, self.n_storage_tokens = cfg.embed_dim, cfg.depth, cfg.n_storage_tokens
        norm = NORM_LAYERS[cfg.norm_layer]
        with torch.device("meta"):
            self.cls_token = nn.Parameter(torch.empty(1, 1, cfg.embed_dim))
            if cfg.n_storage_tokens:
                self.storage_tokens = nn.Parameter(torch.empty(1, cfg.n_storage_tokens, cfg.embed_dim))
            self.mask_token = nn.Parameter(torch.empty(1, cfg.embed_dim))
            self.patch_embed = _stem(cfg)
            self.rope_embed = RopePositionEmbedding(
                cfg.embed_dim // cfg.num_heads,
                base=cfg.pos_embed_rope_base,
                min_period=cfg.pos_embed_rope_min_period,
                max_period=cfg.pos_embed_rope_max_period,
                normalize_coords=cfg.pos_embed_rope_normalize_coords,
                shift_coords=cfg.pos_embed_rope_shift_coords,
                jitter_coords=cfg.pos_embed_rope_jitter_coords,
                rescale_coords=cfg.pos_embed_rope_rescale_coords,
                dtype=cfg.pos_embed_rope_dtype,
            )
            self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.depth))
            reshape_blocks(self.blocks, cfg)
            self.norm = norm(cfg.embed_dim)
            self.cls_norm = norm(cfg.embed_dim) if cfg.untie_cls_and_patch_norms else None
            self.local_cls_norm = norm(cfg.embed_dim) if cfg.untie_global_and_local_cls_norm else None
            self.head = nn.Identity()
        allocate(self, device)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Draw every weight and compute every buffer; ``generator`` lives on the weights' device."""
        init_layers(self, generator)
        nn.init.normal_(self.cls_token, std=TOKEN_STD, generator=generator)
        if self.n_storage_tokens:
            nn.init.normal_(self.storage_tokens, std=TOKEN_STD, generator=generator)
        nn.init.zeros_(self.mask_token)
        self.patch_embed.init_weights(generator)
        for module in self.modules():
            if isinstance(module, RopePositionEmbedding | LayerScale | RMSNorm):
                module.init_weights()
            elif isinstance(module, KeyBiasMaskedLinear):
                module.init_mask()

    def get_intermediate_layers(
        self,
        x: Tensor,
        *,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_class_token: bool = False,
        return_extra_tokens: bool = False,
        norm: bool = True,
    ) -> tuple[Tensor | tuple[Tensor, ...], ...]:
        """Tokens after the last ``n`` blocks, or after the blocks whose indices ``n`` lists.

        Per block: the patches [N, P, D], or [N, D, rows, cols] when ``reshape``; a tuple (patches, cls, storage) with
        the parts asked for when cls [N, D] or storage tokens [N, R, D] are wanted. ``norm`` applies the last norm.
        """
        wanted = self.layer_indices(n)
        tokens, grid = self._embed(x, None), self.patch_embed.grid(x)
        sizes = ((tokens.shape[0], tokens.shape[1]),)
        results: list[Tensor | tuple[Tensor, ...]] = []
        for hidden in self._through_blocks(pack([tokens]), sizes, [grid], wanted):
            cls, storage, patches = self._last_norm(hidden, sizes)[0] if norm else self._split(unpack(hidden, sizes)[0])
            if reshape:
                patches = patches.mT.contiguous().unflatten(2, grid)  # [N, D, rows, cols]
            results.append(pick(patches, cls, storage, return_class_token, return_extra_tokens))
        return tuple(results)

    def encode(
        self, entries: Sequence[Tensor], masks: Sequence[Tensor | None], read: Tensor | None = None
    ) -> list[Features]:
        """Features of every entry, all of them in one packed pass."""
        tokens = [self._embed(x, mask) for x, mask in zip(entries, masks, strict=True)]
        grids = [self.patch_embed.grid(x) for x in entries]
        sizes = tuple((t.shape[0], t.shape[1]) for t in tokens)
        rows = None if read is None else self._rows_of(read, sizes)
        (x,) = self._through_blocks(pack(tokens), sizes, grids, [self.n_blocks - 1], rows)
        return [
            Features(cls=cls, storage=storage, patches=patches, prenorm=prenorm, grid=grid)
            for (cls, storage, patches), prenorm, grid in zip(
                self._last_norm(x, sizes), unpack(x, sizes), grids, strict=True
            )
        ]

    def encode_with(self, x: Tensor, queries: Tensor, n: int) -> tuple[Tensor, Tensor, Grid]:
        """Images [N, C, H, W] whose last ``n`` blocks also see ``queries`` [Q, D] (Kerssies et al. 2025, EoMT).

        Queries have no position. Returns them as [N, Q, D] and the patches [N, P, D], both normed, and the grid. Nothing
        is dropped and no position jittered: for a backbone in eval mode.
        """
        tokens, grid, first = self._embed(x, None), self.patch_embed.grid(x), self.n_blocks - n
        if first:
            sizes: Sizes = ((tokens.shape[0], tokens.shape[1]),)
            (hidden,) = self._through_blocks(pack([tokens]), sizes, [grid], [first - 1])
            (tokens,) = unpack(hidden, sizes)
        tokens = torch.cat((queries.to(tokens.dtype).expand(tokens.shape[0], -1, -1), tokens), dim=1)
        sizes = ((tokens.shape[0], tokens.shape[1]),)
        rotations = [self.rope_embed.rotation(*grid, len(queries) + 1 + self.n_storage_tokens)]
        hidden = pack([tokens])
        for block in self.blocks[first:]:
            hidden = block(hidden, sizes, rotations)
        (tokens,) = unpack(self.norm(hidden), sizes)
        return tokens[:, : len(queries)], tokens[:, len(queries) + 1 + self.n_storage_tokens :], grid

    def _embed(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Images [N, C, H, W] to tokens [N, 1 + R + P, D]: cls, storage, patches."""
        patches: Tensor = self.patch_embed(x)  # [N, P, D]
        dtype = patches.dtype if self.execution.narrow_residual else self.cls_token.dtype
        cls: Tensor = self.cls_token  # [1, 1, D]
        if mask is None:
            cls = cls + 0 * self.mask_token  # so that its gradient is 0, not None
        else:
            patches = torch.where(mask.unsqueeze(-1), self.mask_token.to(dtype), patches)
        prefix = torch.cat((cls, self.storage_tokens), dim=1) if self.n_storage_tokens else cls  # [1, 1 + R, D]
        prefix = prefix.to(dtype).expand(x.shape[0], -1, -1)
        if isinstance(self.patch_embed, WhitenedStem):
            told = self.patch_embed.cls(patches, self.patch_embed.grid(x)).to(dtype)  # [N, 1, D]
            prefix = torch.cat((prefix[:, :1] + told, prefix[:, 1:]), dim=1)
        return torch.cat((prefix, patches), dim=1)

    def _rows_of(self, patches: Tensor, sizes: Sizes) -> Tensor:
        """Rows of the packed tokens: every CLS token, and ``patches [M]``, indices into the first entry's N*P."""
        tokens, prefix = sizes[0][1], 1 + self.n_storage_tokens
        image = patches // (tokens - prefix)
        rows, start = [image * tokens + prefix + patches % (tokens - prefix)], 0
        for n, t in sizes:
            rows.append(torch.arange(start, start + n * t, t, device=patches.device))
            start += n * t
        return torch.cat(rows)

    def _through_blocks(
        self, x: Tensor, sizes: Sizes, grids: Sequence[Grid], wanted: Sequence[int], read: Tensor | None = None
    ) -> list[Tensor]:
        """The packed tokens [S, D] after each wanted block; blocks behind the last of them do not run.

        ``read``: rows of the last block's result that are looked at; None: all.
        """
        rate = self.config.drop_path_rate if self.training else 0.0
        shared = None if self.rope_embed.augments else self._rotations(grids)
        results = []
        blocks = self.blocks[: wanted[-1] + 1]
        drawn = draw_at_once(2 * len(blocks), sizes, rate, x.device) if rate and self.execution.joint_draws else None
        for index, block in enumerate(blocks):
            rotations = self._rotations(grids) if shared is None else shared
            kept = None
            if drawn is not None:
                kept = KeptPair(*drawn[2 * index : 2 * index + 2])
            elif rate:
                kept = KeptPair(Kept(sizes, rate, x.device), Kept(sizes, rate, x.device))
            x = block(x, sizes, rotations, kept, read if index == len(blocks) - 1 else None)
            if index in wanted:
                results.append(x)
        return results

    def _rotations(self, grids: Sequence[Grid]) -> list[Rotation]:
        return [self.rope_embed.rotation(*grid, 1 + self.n_storage_tokens) for grid in grids]

    def _last_norm(self, x: Tensor, sizes: Sizes) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Normed (cls, storage, patches) of each entry of the packed tokens."""
        if self.cls_norm is None and self.local_cls_norm is None:
            return [self._split(entry) for entry in unpack(self.norm(x), sizes)]
        results = []
        for index, entry in enumerate(unpack(x, sizes)):
            prefix_norm = self.norm if self.cls_norm is None else self.cls_norm
            if self.local_cls_norm is not None and self.training and index == 1:
                prefix_norm = self.local_cls_norm
            cls, storage, patches = self._split(entry)
            prefix = prefix_norm(torch.cat((cls.unsqueeze(1), storage), dim=1))
            results.append((prefix[:, 0], prefix[:, 1:], self.norm(patches)))
        return results

    def _split(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens [N, 1 + R + P, D] to cls [N, D], storage [N, R, D], patches [N, P, D]."""
        n_patches = tokens.shape[1] - 1 - self.n_storage_tokens
        cls, storage, patches = tokens.split([1, self.n_storage_tokens, n_patches], dim=1)
        return cls.squeeze(1), storage, patches
