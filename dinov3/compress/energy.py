"""The three energy rules of tiny-DINOv3-FT-PCam: weights alone decide, no image is looked at.

Each keeps the smallest part that holds a share tau of an energy: heads by their columns of the output projection,
neurons by up row times down column, ranks by singular values. Run in this order: a factorised layer has no heads or
neurons to remove. Nothing makes up for what is removed; see ``compensate`` and ``whitened`` for methods that do.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from dinov3.compress.selection import check_share, kept_by_energy, rank_by_energy, rounded
from dinov3.compress.surgery import (
    blocks_of,
    factorise,
    head_energies,
    keep_heads,
    keep_neurons,
    matrix_names,
    neuron_energies,
    weight_of,
)
from dinov3.models.backbone import Backbone
from dinov3.models.block import Block
from dinov3.models.shapes import ffn_names

RULES = ("heads", "mlp", "svd")


class Cut(NamedTuple):
    """What one rule did in one block, for the report."""

    block: int
    what: str  # heads, neurons, or the name of a matrix
    before: int
    after: int
    kept: list[int] | None = None  # rising indices among those there were before
    lost: float | None = None  # of a matrix: |W - W_r|^2 / |W|^2
    replaced: bool = True  # of a matrix: False where the rank saves nothing, and the matrix stays

    def row(self) -> dict[str, Any]:
        """For JSON."""
        return {k: v for k, v in self._asdict().items() if v is not None}


def prune(backbone: Backbone, rule: str, tau: float, *, multiple: int = 1) -> list[Cut]:
    """Apply one of RULES with share ``tau`` to every block, in place. Raises CompressError."""
    tau = check_share(tau, rule)
    step = {"heads": _heads, "mlp": _neurons, "svd": _ranks}[rule]
    return [cut for index, block in enumerate(blocks_of(backbone)) for cut in step(block, index, tau, multiple)]


def _heads(block: Block, index: int, tau: float, multiple: int) -> list[Cut]:
    before = block.attn.num_heads
    kept = torch.arange(before) if tau == 1.0 else kept_by_energy(head_energies(block), tau)
    if len(kept) < before:
        keep_heads(block, kept)
    return [Cut(index, "heads", before, len(kept), kept.tolist())]


def _neurons(block: Block, index: int, tau: float, multiple: int) -> list[Cut]:
    before = int(getattr(block.mlp, ffn_names(block.mlp)[-1]).in_features)
    kept = torch.arange(before) if tau == 1.0 else kept_by_energy(neuron_energies(block), tau, multiple)
    if len(kept) < before:
        keep_neurons(block, kept)
    return [Cut(index, "neurons", before, len(kept), kept.tolist())]


def _ranks(block: Block, index: int, tau: float, multiple: int) -> list[Cut]:
    """Every matrix but the gate, as in the reference; replaced only where it saves parameters."""
    return [cut for name in matrix_names(block) if name != "w1" and (cut := _rank(block, index, name, tau, multiple))]


def _rank(block: Block, index: int, name: str, tau: float, multiple: int) -> Cut | None:
    weight = weight_of(block, name)
    if weight is None:  # a product already
        return None
    full = min(weight.shape)
    rank = rounded(rank_by_energy(weight, tau), full, multiple)
    saves = rank * sum(weight.shape) < weight.numel()
    if rank == full or not saves:
        return Cut(index, name, full, rank, replaced=False)
    u, s, v = torch.linalg.svd(weight.double(), full_matrices=False)
    factorise(block, name, v[:rank].to(weight), (u[:, :rank] * s[:rank]).to(weight))
    lost = float(s[rank:].square().sum() / s.square().sum())
    return Cut(index, name, full, rank, lost=lost)
