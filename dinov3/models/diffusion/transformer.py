"""A diffusion transformer that is told an image's text and its features in every place (adaLN-Zero, Peebles and Xie 2022).

A token is 2 x 2 cells of the latent. Each block attends to its own tokens, then once to all that is known of the image:
text, class token and patch features, one after the other. Time and class token modulate every block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3.models.checkpointing import CheckpointedBlock
from dinov3.models.diffusion.conditioning import context_bias, cross_attention, modulate
from dinov3.models.diffusion.position_tables import position_table, time_table
from dinov3.models.initialization import init_layers

PATCH = 2  # cells of a latent on each side of a token
TIME_WIDTH = 256
MODULATIONS = 9  # shift, scale and gate of self-attention, cross-attention and MLP
# What only a model that sees features has; a checkpoint of text alone starts one without them.
FEATURE_NAMES = ("dino_", "null_dino_", "visual_bias")


@dataclass(frozen=True)
class DitSpec:
    """Everything that decides the shapes of the weights. Raises ValueError for sizes that do not go together."""

    channels: int  # of the latent
    text_width: int
    feature_width: int = 0  # of class token and patch features; 0: the model sees text alone
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    patches: bool = True  # False: of the features, the class token alone
    positions: bool = True  # patch features are told where they lie
    visual_bias: float | None = None  # first value of what each block adds to attention on features; None: adds nothing

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"width {self.width} with {self.heads} heads: the heads and 4 must divide it")

    @property
    def sees_features(self) -> bool:
        """False: text alone."""
        return self.feature_width > 0


class Conditions(NamedTuple):
    """What is known of ``B`` images of one size. Dropped rows are replaced by learned tokens: what they hold is never read."""

    text: Tensor  # [B, L, text_width]
    text_mask: Tensor  # [B, L] bool, True where there is text
    cls: Tensor  # [B, feature_width]
    patches: Tensor  # [B, rows * cols, feature_width], row by row
    grid: tuple[int, int]  # (rows, cols)
    without_text: Tensor  # [B] bool
    without_features: Tensor  # [B] bool, class token and patches together

    def each(self, change: Callable[[Tensor], Tensor]) -> Conditions:
        """With every tensor changed."""
        tensors: dict[str, Any] = {
            name: change(part) for name, part in self._asdict().items() if isinstance(part, Tensor)
        }
        return self._replace(**tensors)


class DitBlock(CheckpointedBlock):
    """Self-attention, cross-attention on the context, MLP; each in front modulated, behind gated. At the start the identity."""

    def __init__(self, spec: DitSpec) -> None:
        super().__init__()
        dim, hidden = spec.width, int(spec.width * spec.mlp_ratio)
        self.heads = spec.heads
        self.modulation = nn.Linear(dim, MODULATIONS * dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.cross_q, self.cross_kv, self.cross_proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.visual_bias = None if spec.visual_bias is None else nn.Parameter(torch.empty(1))

    def forward(self, x: Tensor, told: Tensor, context: Tensor, text_mask: Tensor) -> Tensor:
        """Tokens ``x [B, T, D]``; ``told [B, D]``: time and class token; ``context [B, K, D]``: text ``text_mask [B, L]``, then features."""
        return self.checkpointed(lambda tokens: self._forward(tokens, told, context, text_mask), x)

    def _forward(self, x: Tensor, told: Tensor, context: Tensor, text_mask: Tensor) -> Tensor:
        own, cross, mlp = self.modulation(F.silu(told)).chunk(3, dim=-1)
        shift, scale, gate = own.chunk(3, dim=-1)
        x = x + gate[:, None] * self._attend(modulate(x, shift, scale))
        shift, scale, gate = cross.chunk(3, dim=-1)
        x = x + gate[:, None] * self._look(modulate(x, shift, scale), context, text_mask)
        shift, scale, gate = mlp.chunk(3, dim=-1)
        hidden = F.gelu(self.fc1(modulate(x, shift, scale)), approximate="tanh")
        return x + gate[:, None] * self.fc2(hidden)

    def _attend(self, x: Tensor) -> Tensor:
        q, k, v = (self._split(part) for part in self.qkv(x).chunk(3, dim=-1))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def _look(self, x: Tensor, context: Tensor, text_mask: Tensor) -> Tensor:
        k, v = (self._split(part) for part in self.cross_kv(context).chunk(2, dim=-1))
        features = context.shape[1] - text_mask.shape[1]
        bias = context_bias(text_mask, features, 0.0 if self.visual_bias is None else self.visual_bias)
        return self.cross_proj(cross_attention(self._split(self.cross_q(x)), k, v, bias).transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)  # [B, heads, T, D_head]


class DiffusionTransformer(nn.Module):
    """``[B, C, H, W]`` noisy latents, times and conditions -> velocities of the same shape, for any even H and W."""

    def __init__(self, spec: DitSpec) -> None:
        super().__init__()
        self.spec = spec
        dim, cells = spec.width, spec.channels * PATCH**2
        self.latent_proj = nn.Linear(cells, dim)
        self.time_in, self.time_out = nn.Linear(TIME_WIDTH, dim), nn.Linear(dim, dim)
        self.text_proj = nn.Linear(spec.text_width, dim)
        self.null_text = nn.Parameter(torch.empty(1, 1, spec.text_width))
        if spec.sees_features:
            self.dino_cls_proj = nn.Linear(spec.feature_width, dim)  # as a token: it does not know the time
            self.dino_cls_told = nn.Linear(spec.feature_width, dim)  # with the time, in every modulation
            self.null_dino_cls = nn.Parameter(torch.empty(1, spec.feature_width))
            if spec.patches:
                self.dino_patch_proj = nn.Linear(spec.feature_width, dim)
                self.null_dino_patch_token = nn.Parameter(torch.empty(1, 1, spec.feature_width))
        self.blocks = nn.ModuleList(DitBlock(spec) for _ in range(spec.depth))
        self.final_modulation = nn.Linear(dim, 2 * dim)
        self.final = nn.Linear(dim, cells)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """First values: every block the identity, the output zero, the class token not yet in the modulations."""
        init_layers(self, generator)
        zeros = [self.final_modulation, self.final]
        for block in self.blocks:
            assert isinstance(block, DitBlock)
            zeros.append(block.modulation)
            if block.visual_bias is not None:
                block.visual_bias.fill_(self.spec.visual_bias or 0.0)
        if self.spec.sees_features:
            zeros.append(self.dino_cls_told)  # zero, so that a model begun from text alone says what that one said
        for layer in zeros:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for name, parameter in self.named_parameters(recurse=False):
            if name.startswith("null_"):
                parameter.zero_()

    def forward(self, z: Tensor, t: Tensor, known: Conditions) -> Tensor:
        """``z [B, C, H, W]`` at times ``t [B]`` in [0, 1]. ValueError for an odd side or another number of channels."""
        return self.with_hidden(z, t, known, 0)[0]

    def with_hidden(self, z: Tensor, t: Tensor, known: Conditions, block: int) -> tuple[Tensor, Tensor]:
        """The velocity, and the tokens ``[B, T, D]`` behind block number ``block``, counted from 1; 0: in front of all."""
        self._check(z, known)
        rows, cols = z.shape[2] // PATCH, z.shape[3] // PATCH
        told, context, mask = self.told(t, known), *self.context(known)
        x = self.latent_proj(tokens_of(z)) + self._places(rows, cols, z.device)
        tapped = x
        for number, layer in enumerate(self.blocks, 1):
            x = layer(x, told, context, mask)
            tapped = x if number == block else tapped
        shift, scale = self.final_modulation(F.silu(told)).chunk(2, dim=-1)
        return latents_of(self.final(modulate(x, shift, scale)), rows, cols), tapped

    def told(self, t: Tensor, known: Conditions) -> Tensor:
        """What modulates the blocks, ``[B, D]``: the time and, where it is kept, the class token."""
        table = time_table(t, TIME_WIDTH).to(self.time_in.weight.dtype)
        told = self.time_out(F.silu(self.time_in(table)))
        return told + self.dino_cls_told(self._cls(known)) if self.spec.sees_features else told

    def context(self, known: Conditions) -> tuple[Tensor, Tensor]:
        """Keys of the cross-attention ``[B, L + 1 + N, D]``, and which of the text there are ``[B, L]`` (all, of a dropped one)."""
        # a text without a word is none: otherwise a row of text alone would have no key
        dropped = known.without_text | ~known.text_mask.any(1)
        mask = known.text_mask | dropped[:, None]
        there = known.text.masked_fill(~known.text_mask[..., None], 0)  # padding may hold anything, NaN included
        parts = [self.text_proj(torch.where(dropped[:, None, None], self.null_text, there))]
        if self.spec.sees_features:
            parts.append(self.dino_cls_proj(self._cls(known))[:, None])
            if self.spec.patches:
                parts.append(self._patches(known))
        return torch.cat(parts, dim=1), mask

    def _cls(self, known: Conditions) -> Tensor:
        return torch.where(known.without_features[:, None], self.null_dino_cls, known.cls)

    def _patches(self, known: Conditions) -> Tensor:
        gone = known.without_features[:, None, None]
        projected = self.dino_patch_proj(torch.where(gone, self.null_dino_patch_token, known.patches))
        if not self.spec.positions:
            return projected
        # a dropped grid has no places: a null token is the same everywhere
        return projected + self._places(*known.grid, projected.device).masked_fill(gone, 0)

    def _places(self, rows: int, cols: int, device: torch.device) -> Tensor:
        return position_table(rows, cols, self.spec.width).to(device)[None]

    def _check(self, z: Tensor, known: Conditions) -> None:
        if z.ndim != 4 or z.shape[1] != self.spec.channels or z.shape[2] % PATCH or z.shape[3] % PATCH:
            raise ValueError(
                f"latents {tuple(z.shape)}: [B, {self.spec.channels}, H, W] with even H and W is what this model takes"
            )
        if self.spec.sees_features and known.patches.shape[1] != known.grid[0] * known.grid[1]:
            raise ValueError(f"{known.patches.shape[1]} patches are not a grid of {known.grid[0]} x {known.grid[1]}")


def tokens_of(z: Tensor) -> Tensor:
    """``[B, C, H, W]`` as tokens ``[B, H/2 * W/2, 4 C]``, row by row."""
    cells = z.unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH))  # [B, C, rows, 2, cols, 2]
    return cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def latents_of(tokens: Tensor, rows: int, cols: int) -> Tensor:
    """``tokens_of``, back."""
    cells = tokens.unflatten(2, (-1, PATCH, PATCH)).unflatten(1, (rows, cols))  # [B, rows, cols, C, 2, 2]
    return cells.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


class Alignment(nn.Module):
    """From the transformer's tokens to the backbone's features of the clean image (REPA, Yu et al. 2024): three layers."""

    def __init__(self, width: int, feature_width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, feature_width)

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """First values."""
        init_layers(self, generator)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, D]`` -> ``[B, T, feature_width]``."""
        return self.fc3(F.silu(self.fc2(F.silu(self.fc1(x)))))
