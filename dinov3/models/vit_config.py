"""Every argument of DinoVisionTransformer, with its default and check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dinov3.models.ffn import FFN_LAYERS
from dinov3.models.norms import NORM_LAYERS

QKV = ("q", "k", "v")
PLAIN_FFN, GATED_FFN = ("fc1", "fc2"), ("w1", "w2", "w3")
INT8_KINDS = ("weight_only", "dynamic")
WHITENED = "whitened"


@dataclass(frozen=True, kw_only=True)
class BlockShape:
    """What is left of one block: heads of embed_dim / num_heads channels, hidden neurons, ranks of matrices.

    ``ranks`` names the matrices that are products of two: q, k, v, proj and fc1, fc2 or w1, w2, w3.
    """

    heads: int
    hidden: int
    ranks: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """ValueError for numbers below 1."""
        for name, number in {"heads": self.heads, "hidden": self.hidden, **self.ranks}.items():
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise ValueError(f"block_shapes: {name} {number!r}: a whole number from 1 up")


@dataclass(frozen=True, kw_only=True)
class VitConfig:
    """Names and defaults are DINOv3's."""

    img_size: int = 224  # px, the size it is meant for; forward takes any size of at least one patch
    patch_size: int = 16  # px
    in_chans: int = 3
    pos_embed_rope_base: float | None = 100.0  # None: periods from min_period to max_period instead
    pos_embed_rope_min_period: float | None = None
    pos_embed_rope_max_period: float | None = None
    pos_embed_rope_normalize_coords: str = "separate"
    pos_embed_rope_shift_coords: float | None = None  # training only, like jitter and rescale
    pos_embed_rope_jitter_coords: float | None = None
    pos_embed_rope_rescale_coords: float | None = None
    pos_embed_rope_dtype: str = "bf16"  # of tables and rotation
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    ffn_ratio: float = 4.0  # hidden width of the mlp / embed_dim; SwiGLU takes 2/3 of it, rounded up
    qkv_bias: bool = True
    drop_path_rate: float = 0.0  # share of samples a branch skips, the same in every block
    layerscale_init: float | None = None  # None or 0: no LayerScale
    norm_layer: str = "layernorm"
    ffn_layer: str = "mlp"
    ffn_bias: bool = True
    proj_bias: bool = True
    n_storage_tokens: int = 0
    mask_k_bias: bool = False  # without effect when qkv_bias is off
    untie_cls_and_patch_norms: bool = False  # last norm: one for cls and storage tokens, one for patches
    untie_global_and_local_cls_norm: bool = False  # in training the second list entry has its own cls norm
    # ours, of compressed models; ``num_heads`` and ``ffn_ratio`` stay those of the whole model
    block_shapes: tuple[BlockShape, ...] | None = None  # None: every block as the numbers above say
    stem: str | None = None  # what stands before the blocks: "whitened"; None: patches times a matrix
    stem_filters: int | None = None  # of a whitened stem; None: half of embed_dim
    int8: str | None = None  # linear layers of blocks in 8 bits: weight_only or dynamic

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown layer name or numbers that do not fit."""
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}")
        for key, choices in (("norm_layer", NORM_LAYERS), ("ffn_layer", FFN_LAYERS)):
            if getattr(self, key) not in choices:
                raise ValueError(f"{key} {getattr(self, key)!r}: choose from {sorted(choices)}")
        if not 0.0 <= self.drop_path_rate < 1.0:
            raise ValueError(f"drop_path_rate {self.drop_path_rate} is not in [0, 1)")
        if self.img_size < self.patch_size:
            raise ValueError(f"img_size {self.img_size} is smaller than patch_size {self.patch_size}")
        if self.stem not in (None, WHITENED):
            raise ValueError(f"stem {self.stem!r}: choose {WHITENED}, or none")
        if self.stem_filters is not None and self.stem is None:
            raise ValueError(f"stem_filters {self.stem_filters} without a stem: only a {WHITENED} one has filters")
        if self.stem is not None and self.stem_filters is None:
            object.__setattr__(self, "stem_filters", self.embed_dim // 2)
        if self.int8 is not None and self.int8 not in INT8_KINDS:
            raise ValueError(f"int8 {self.int8!r}: choose from {INT8_KINDS}")
        if self.block_shapes is not None:
            object.__setattr__(self, "block_shapes", tuple(self._shape(shape) for shape in self.block_shapes))
            if len(self.block_shapes) != self.depth:
                raise ValueError(f"block_shapes has {len(self.block_shapes)} entries, depth is {self.depth}")

    def _shape(self, given: BlockShape | Mapping[str, Any]) -> BlockShape:
        """From its dataclass or from JSON."""
        shape = given if isinstance(given, BlockShape) else BlockShape(**given)
        known = (*QKV, "proj", *(PLAIN_FFN if self.ffn_layer == "mlp" else GATED_FFN))
        if unknown := sorted(set(shape.ranks) - set(known)):
            raise ValueError(f"block_shapes: ranks of {unknown}: the matrices are {list(known)}")
        if shape.heads > self.num_heads:
            raise ValueError(f"block_shapes: {shape.heads} heads of {self.num_heads}")
        return shape
