"""Rotary position embedding over the patch grid."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
NORMALIZERS = ("separate", "max", "min")


class RopeTable(NamedTuple):
    """Sine and cosine of every patch's angles, row by row."""

    sin: Tensor  # [P, D_head]
    cos: Tensor  # [P, D_head]


class Rotation:
    """What turns the queries and keys of one crop size: some tokens without a position, then the patches.

    A plain class on purpose: FSDP2 casts every tensor it finds in a block's arguments to the parameter dtype, looking
    into tuples and dataclasses too, and an fp32 table must stay fp32.
    """

    def __init__(self, cos: Tensor, signed_sin: Tensor) -> None:
        self.cos = cos  # [T, D_head]
        self.signed_sin = signed_sin  # [T, D_head], the first half negated

    @classmethod
    def of(cls, table: RopeTable, n_prefix: int) -> Rotation:
        """``n_prefix`` tokens that are not turned, then those of ``table``."""
        return cls(*_padded(table, n_prefix))

    def apply(self, x: Tensor) -> Tensor:
        """Turn each pair (i, i + D_head/2) of ``x`` [N, T, ..., D_head] by its angle, in the table's dtype."""
        shape = (x.shape[1], *(1 for _ in x.shape[2:-1]), x.shape[-1])
        wide = x.to(self.cos.dtype)
        swapped = wide.roll(x.shape[-1] // 2, -1)  # one pass forward and one backward; slices would need zero fills
        return (wide * self.cos.view(shape) + swapped * self.signed_sin.view(shape)).to(x.dtype)  # [N, T, ..., D_head]


class RopePositionEmbedding(nn.Module):
    """Axial rotary embedding (Su et al. 2021; two axes as in DINOv3): half of a head's angles for rows, half for columns.

    Give either ``base`` or both ``min_period`` and ``max_period`` (in units of the normalised coordinate, -1 to 1).
    In training mode the coordinates are shifted by U(-shift, shift) an axis, stretched by exp(U(-ln jitter, ln jitter))
    an axis and rescaled alike for both, each when its argument is not None; the draws use the device's generator.
    """

    periods: Tensor

    def __init__(
        self,
        head_dim: int,
        *,
        base: float | None = 100.0,
        min_period: float | None = None,
        max_period: float | None = None,
        normalize_coords: str = "separate",
        shift_coords: float | None = None,
        jitter_coords: float | None = None,
        rescale_coords: float | None = None,
        dtype: str = "bf16",
    ) -> None:
        super().__init__()
        if head_dim % 4:
            raise ValueError(f"embed_dim / num_heads = {head_dim} must be a multiple of 4: two axes, sine and cosine")
        if (base is None) == (min_period is None or max_period is None):
            raise ValueError(
                "give either pos_embed_rope_base or both pos_embed_rope_min_period and pos_embed_rope_max_period, "
                f"not base={base}, min_period={min_period}, max_period={max_period}"
            )
        if normalize_coords not in NORMALIZERS:
            raise ValueError(f"pos_embed_rope_normalize_coords {normalize_coords!r}: choose from {NORMALIZERS}")
        if dtype not in DTYPES:
            raise ValueError(f"pos_embed_rope_dtype {dtype!r}: choose from {tuple(DTYPES)}")
        self.head_dim, self.base, self.min_period, self.max_period = head_dim, base, min_period, max_period
        self.normalize_coords, self.dtype = normalize_coords, DTYPES[dtype]
        self.shift_coords, self.jitter_coords, self.rescale_coords = shift_coords, jitter_coords, rescale_coords
        self.register_buffer("periods", torch.empty(head_dim // 4, dtype=self.dtype))

    @property
    def augments(self) -> bool:
        """True when every call draws new coordinates."""
        return self.training and any(
            a is not None for a in (self.shift_coords, self.jitter_coords, self.rescale_coords)
        )

    @torch.no_grad()
    def init_weights(self) -> None:
        like: dict[str, Any] = {"device": self.periods.device, "dtype": self.dtype}
        n = self.head_dim // 4
        if self.base is not None:
            periods = self.base ** (2 * torch.arange(n, **like) / (self.head_dim // 2))
        else:
            assert self.min_period is not None
            assert self.max_period is not None
            spread = self.max_period / self.min_period
            periods = spread ** torch.linspace(0, 1, n, **like) / spread * self.max_period
        self.periods.copy_(periods)

    def forward(self, rows: int, cols: int) -> RopeTable:
        """The table of a grid of ``rows`` x ``cols`` patches, row by row."""
        return _table(self.periods.to(self.dtype), rows, cols, self.normalize_coords, *self._drawn())

    def rotation(self, rows: int, cols: int, n_prefix: int) -> Rotation:
        """``forward`` as a rotation behind ``n_prefix`` tokens without a position.

        In a compiled graph the tables are the result of one opaque operation. Traced into the graph their bf16 steps
        would not be rounded as they are here (other angles than released weights have seen), and inductor computes
        sine and cosine again for every query and key: 12 of the 233 ms of a ViT-B step on an H200.
        """
        if torch.compiler.is_dynamo_compiling():
            return Rotation(
                *_opaque(self.periods.to(self.dtype), rows, cols, n_prefix, self.normalize_coords, *self._drawn())
            )
        return Rotation.of(self(rows, cols), n_prefix)

    def _drawn(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Shift, jitter and rescaling, drawn in this order (golden A08 depends on it); None: not wanted."""
        if not self.augments:
            return None, None, None
        shift = None if self.shift_coords is None else self._uniform(2, self.shift_coords)
        jitter = None if self.jitter_coords is None else self._uniform(2, math.log(self.jitter_coords)).exp()
        rescale = None if self.rescale_coords is None else self._uniform(1, math.log(self.rescale_coords)).exp()
        return shift, jitter, rescale

    def _uniform(self, n: int, bound: float) -> Tensor:
        return self.periods.new_empty(n, dtype=self.dtype).uniform_(-bound, bound)


def _table(
    periods: Tensor,
    rows: int,
    cols: int,
    normalize_coords: str,
    shift: Tensor | None,
    jitter: Tensor | None,
    rescale: Tensor | None,
) -> RopeTable:
    """Sine and cosine of a grid; every step is rounded to the dtype of ``periods``."""
    like: dict[str, Any] = {"device": periods.device, "dtype": periods.dtype}
    longest, shortest = max(rows, cols), min(rows, cols)
    units = {"separate": (rows, cols), "max": (longest, longest), "min": (shortest, shortest)}[normalize_coords]
    axes = [torch.arange(0.5, n, **like) / unit for n, unit in zip((rows, cols), units, strict=True)]
    coords = torch.stack(torch.meshgrid(axes, indexing="ij"), dim=-1).flatten(0, 1)  # [P, 2]
    coords = 2.0 * coords - 1.0
    coords = coords if shift is None else coords + shift
    for factor in (jitter, rescale):
        coords = coords if factor is None else coords * factor
    angles = 2 * math.pi * coords[:, :, None] / periods  # [P, 2, D_head/4]
    angles = angles.flatten(1).tile(2)  # [P, D_head]
    return RopeTable(sin=angles.sin(), cos=angles.cos())


def _padded(table: RopeTable, n_prefix: int) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine, behind ``n_prefix`` tokens that are not turned."""
    first, second = table.sin.chunk(2, dim=-1)
    signed_sin = torch.cat((-first, second), dim=-1)
    return F.pad(table.cos, (0, 0, n_prefix, 0), value=1.0), F.pad(signed_sin, (0, 0, n_prefix, 0))


@torch.library.custom_op("dinov3::rotation", mutates_args=())
def _opaque(
    periods: Tensor,
    rows: int,
    cols: int,
    n_prefix: int,
    normalize_coords: str,
    shift: Tensor | None,
    jitter: Tensor | None,
    rescale: Tensor | None,
) -> tuple[Tensor, Tensor]:
    return _padded(_table(periods, rows, cols, normalize_coords, shift, jitter, rescale), n_prefix)


@_opaque.register_fake
def _(periods: Tensor, rows: int, cols: int, n_prefix: int, *_: object) -> tuple[Tensor, Tensor]:
    shape = (n_prefix + rows * cols, 4 * len(periods))
    return periods.new_empty(shape), periods.new_empty(shape)
