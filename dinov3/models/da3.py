"""The Depth Anything 3 image encoder, for single images: every image is its own scene, so no token sees a batch neighbour.

Written from the published architecture (Depth Anything 3, Lin et al. 2025; a DINOv2 ViT with patch 14). State-dict keys
equal the official ones without ``model.backbone.``: ``pretrained.blocks.0.norm1.weight`` and so on.

From ``alt_start`` on, odd blocks are "global" (officially over all views of a scene) and even ones "local" (one view).
With one view both attend over the same tokens; what is left of the difference is the position code, see ``RopeTables``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 14
TRAINED_SIDE = 37  # the learned position embedding is a 37 x 37 grid: 518 pixels
ROPE_BASE = 100.0
BLOCK_EPS = 1e-6  # the q/k norms and the last norm keep nn.LayerNorm's 1e-5
KEPT_GRIDS = 16  # position tables kept by one encoder
TARGETS = ("global", "local", "full", "full_normalized")

Grid = tuple[int, int]
Rope = tuple[Tensor, Tensor]  # cos [1 + P, d], signed sin [1 + P, d], d = head width


@dataclass(frozen=True)
class DA3Spec:
    """The size of one encoder. ``alt_start``: the first block with q/k norms and rope; None makes a plain ViT."""

    embed_dim: int
    depth: int
    num_heads: int
    alt_start: int | None
    swiglu: bool = False

    def is_global(self, block: int) -> bool:
        """True for the blocks that officially attend over all views of a scene."""
        return self.alt_start is not None and block >= self.alt_start and block % 2 == 1

    def last_local(self, block: int) -> int:
        """The last local block at or before ``block``."""
        return block - 1 if self.is_global(block) else block

    def width(self, target: str) -> int:
        """Channels of a ``target`` token. ValueError for an unknown target, or for a half that a plain ViT lacks."""
        if target not in TARGETS:
            raise ValueError(f"target {target!r} is unknown: use one of {', '.join(TARGETS)}")
        if self.alt_start is None and target != "global":
            raise ValueError(f"target {target!r} needs a local half, and this encoder has none: use 'global'")
        return self.embed_dim * (2 if target.startswith("full") else 1)


VARIANTS: dict[str, DA3Spec] = {
    "small": DA3Spec(384, 12, 6, alt_start=4),
    "base": DA3Spec(768, 12, 12, alt_start=4),
    "large": DA3Spec(1024, 24, 16, alt_start=8),
    "giant": DA3Spec(1536, 40, 24, alt_start=13, swiglu=True),
    "mono-large": DA3Spec(1024, 24, 16, alt_start=None),
    "metric-large": DA3Spec(1024, 24, 16, alt_start=None),
}


class RopeTables(NamedTuple):
    """Rotary tables of one grid. Local blocks: patch (row + 1, col + 1). Global blocks: every patch (1, 1). Token 0: (0, 0)."""

    local: Rope
    scene: Rope


class _CachedTables(NamedTuple):
    source: Tensor  # the parameter that ``pos`` was computed from
    version: int  # and its version then
    pos: Tensor  # [1, 1 + P, D]
    rope: RopeTables | None


def rope_tables(grid: Grid, head_dim: int, device: torch.device) -> RopeTables:
    """fp32 tables for ``grid`` (rows, cols). In bf16 the angles of position 16 would carry 8 significant bits."""
    rows, cols = grid
    axis = head_dim // 2  # one half of a head turns with the row, the other with the column
    freqs = ROPE_BASE ** (-torch.arange(0, axis, 2, device=device, dtype=torch.float32) / axis)  # [d/4]
    row = torch.arange(1, rows + 1, device=device, dtype=torch.float32).repeat_interleave(cols)  # [P]
    col = torch.arange(1, cols + 1, device=device, dtype=torch.float32).repeat(rows)  # [P]
    patches = torch.stack((row, col), dim=-1)  # [P, 2]
    zero = patches.new_zeros(1, 2)

    def table(positions: Tensor) -> Rope:
        angles = positions[:, :, None] * freqs  # [1 + P, 2, d/4]
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((cos, cos), -1).flatten(1), torch.cat((-sin, sin), -1).flatten(1)

    return RopeTables(table(torch.cat((zero, patches))), table(torch.cat((zero, torch.ones_like(patches)))))


@torch.library.custom_op("dinov3::da3_tables", mutates_args=())
def _opaque_tables(like: Tensor, rows: int, cols: int, head_dim: int) -> list[Tensor]:
    """``rope_tables`` as one operation, so that a compiled graph does not compute sines again in every block."""
    return [table for rope in rope_tables((rows, cols), head_dim, like.device) for table in rope]


@_opaque_tables.register_fake
def _(like: Tensor, rows: int, cols: int, head_dim: int) -> list[Tensor]:
    return [like.new_empty(1 + rows * cols, head_dim, dtype=torch.float32) for _ in range(4)]


def apply_rope(x: Tensor, rope: Rope) -> Tensor:
    """Rotate ``x`` [N, heads, 1 + P, d]: within each half of d, channel i pairs with channel i + d/4."""
    cos, signed_sin = rope
    swapped = x.unflatten(-1, (2, 2, -1)).flip(-2).flatten(-3)
    return x * cos + swapped * signed_sin


class PatchEmbed(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, PATCH, stride=PATCH)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).mT  # [N, P, D]


class Attention(nn.Module):
    def __init__(self, dim: int, num_heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm: nn.Module = nn.LayerNorm(dim // num_heads) if qk_norm else nn.Identity()
        self.k_norm: nn.Module = nn.LayerNorm(dim // num_heads) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rope: Rope | None) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # [N, 1 + P, 3, heads, d]
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [N, heads, 1 + P, d]
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = apply_rope(q, rope), apply_rope(k, rope)
        mixed = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGLU(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = 8 * math.ceil(8 * dim // 3 / 8)  # two thirds of 4 * dim, up to a multiple of 8: 4096 for giant
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class LayerScale(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    def __init__(self, spec: DA3Spec, qk_norm: bool) -> None:
        super().__init__()
        dim = spec.embed_dim
        self.norm1 = nn.LayerNorm(dim, eps=BLOCK_EPS)
        self.attn = Attention(dim, spec.num_heads, qk_norm)
        self.ls1 = LayerScale(dim)
        self.norm2 = nn.LayerNorm(dim, eps=BLOCK_EPS)
        self.mlp: nn.Module = SwiGLU(dim) if spec.swiglu else Mlp(dim)
        self.ls2 = LayerScale(dim)

    def forward(self, x: Tensor, rope: Rope | None) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), rope))
        return x + self.ls2(self.mlp(self.norm2(x)))


class DA3ViT(nn.Module):
    """The transformer itself: images to raw token streams."""

    def __init__(self, spec: DA3Spec) -> None:
        super().__init__()
        dim, start = spec.embed_dim, spec.alt_start
        self.spec = spec
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        if start is not None:
            self.camera_token = nn.Parameter(torch.zeros(1, 2, dim))  # the reference view's token, any other view's
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + TRAINED_SIDE**2, dim))
        self.patch_embed = PatchEmbed(dim)
        self.blocks = nn.ModuleList(Block(spec, start is not None and i >= start) for i in range(spec.depth))
        self.norm = nn.LayerNorm(dim)
        self._tables: dict[tuple[Grid, torch.device], _CachedTables] = {}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self._tables.clear()  # .to(), .cuda(), .bfloat16() leave the parameter's identity and version as they were
        return super()._apply(fn, recurse)

    def states(self, images: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Raw tokens of ``images`` [N, 3, H, W] after the last local block up to ``layer``, and after ``layer``.

        Both are [N, 1 + P, D], not normalised; token 0 is CLS, from ``alt_start`` on the camera token. ValueError when
        the image is not RGB or a side is not a multiple of 14.
        """
        grid, start = patch_grid(images), self.spec.alt_start
        pos, rope = self.tables(grid)
        patches = self.patch_embed(images)  # [N, P, D]
        x = torch.cat((self.cls_token.expand(len(patches), -1, -1), patches), dim=1) + pos  # [N, 1 + P, D]
        local = x
        for index, block in enumerate(self.blocks[: layer + 1]):
            if index == start:
                x = torch.cat((self.camera_token[:, :1].expand(len(x), -1, -1), x[:, 1:]), dim=1)
            is_global = self.spec.is_global(index)
            active = rope if start is not None and index >= start else None
            x = block(x, None if active is None else active.scene if is_global else active.local)
            local = local if is_global else x
        return local, x

    def tables(self, grid: Grid) -> tuple[Tensor, RopeTables | None]:
        """Position embedding [1, 1 + P, D] and rotary tables of ``grid``, computed once per grid and device.

        A traced call computes them in its graph instead, and a trainable position embedding is never cached.
        """
        if torch.compiler.is_compiling() or (torch.is_grad_enabled() and self.pos_embed.requires_grad):
            return self._build_tables(grid)
        key = (grid, self.pos_embed.device)
        version = -1 if self.pos_embed.is_inference() else self.pos_embed._version
        kept = self._tables.get(key)
        if kept is None or kept.source is not self.pos_embed or kept.version != version:
            with torch.inference_mode(False), torch.no_grad():  # an inference tensor could not enter a later graph
                kept = _CachedTables(self.pos_embed, version, *self._build_tables(grid))
            self._tables.pop(key, None)
            while len(self._tables) >= KEPT_GRIDS:
                del self._tables[next(iter(self._tables))]
            self._tables[key] = kept
        return kept.pos, kept.rope

    def _build_tables(self, grid: Grid) -> tuple[Tensor, RopeTables | None]:
        pos = self._position_embedding(grid)
        if self.spec.alt_start is None:
            return pos, None
        head_dim = self.spec.embed_dim // self.spec.num_heads
        if torch.compiler.is_dynamo_compiling():
            tables = _opaque_tables(pos, *grid, head_dim)
            return pos, RopeTables((tables[0], tables[1]), (tables[2], tables[3]))
        return pos, rope_tables(grid, head_dim, pos.device)

    def _position_embedding(self, grid: Grid) -> Tensor:
        if grid == (TRAINED_SIDE, TRAINED_SIDE):
            return self.pos_embed
        pos = self.pos_embed.float()
        square = pos[:, 1:].unflatten(1, (TRAINED_SIDE, TRAINED_SIDE)).permute(0, 3, 1, 2)  # [1, D, 37, 37]
        # DINOv2 adds 0.1 to the wanted side and samples at that scale; a plain resize to the size gives other tokens.
        scale = tuple((side + 0.1) / TRAINED_SIDE for side in grid)
        resized = F.interpolate(square, scale_factor=scale, mode="bicubic", align_corners=False)  # [1, D, rows, cols]
        return torch.cat((pos[:, :1], resized.flatten(2).mT), dim=1).to(self.pos_embed.dtype)


class DA3Encoder(nn.Module):
    """Images [N, 3, H, W], RGB with ImageNet mean and std, to patch tokens [N, P, ``embed_dim``], P = H/14 * W/14.

    ``target`` says which tokens of block ``layer`` (negative counts from the end) are returned:
    ``global`` the block's output after the last LayerNorm; ``local`` the raw output of the last local block up to it;
    ``full`` [local | global] as the official encoder returns them; ``full_normalized`` the same after a LayerNorm
    without parameters on each half, so that both weigh the same in a cosine.

    ValueError for an unknown target or layer, and for images that do not fit the patch grid.
    """

    def __init__(self, spec: DA3Spec, target: str = "global", layer: int = -1) -> None:
        super().__init__()
        if not -spec.depth <= layer < spec.depth:
            raise ValueError(f"layer {layer} is outside this encoder's {spec.depth} blocks: use 0 to {spec.depth - 1}")
        self.target, self.embed_dim = target, spec.width(target)
        self.layer = layer % spec.depth
        self.pretrained = DA3ViT(spec)

    def forward(self, images: Tensor) -> Tensor:
        vit = self.pretrained
        if self.target == "local":  # a global block after it would be computed for nothing
            return vit.states(images, vit.spec.last_local(self.layer))[1][:, 1:]  # [N, P, D]
        local, last = (x[:, 1:] for x in vit.states(images, self.layer))
        last = vit.norm(last)
        if self.target == "global":
            return last  # [N, P, D]
        if self.target == "full_normalized":
            local, last = (F.layer_norm(half, half.shape[-1:]) for half in (local, last))
        return torch.cat((local, last), dim=-1)  # [N, P, 2D]

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Random weights from ``generator``: matrices and tokens normal(0, 0.02), scales one, biases zero."""
        for name, value in self.named_parameters():
            kind = name.rsplit(".", 1)[-1]
            if kind == "bias":
                value.zero_()
            elif kind == "gamma" or "norm" in name.split(".")[-2]:
                value.fill_(1.0)
            else:
                nn.init.trunc_normal_(value, std=0.02, generator=generator)


def patch_grid(images: Tensor) -> Grid:
    """(rows, cols) of ``images`` [N, 3, H, W]. ValueError when they are no RGB stack or a side is no multiple of 14."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be [N, 3, H, W], got {list(images.shape)}")
    for name, side in zip(("height", "width"), images.shape[2:], strict=True):
        if side < PATCH or side % PATCH:
            down, up = side // PATCH * PATCH, -(-side // PATCH) * PATCH
            choices = f"{down} or {up}" if down else f"{max(up, PATCH)}"
            raise ValueError(f"image {name} {side} is not a multiple of the patch size {PATCH}: use {choices}")
    return images.shape[2] // PATCH, images.shape[3] // PATCH
