"""The three energy rules of tiny-DINOv3-FT-PCam: weights alone decide, no image is looked at.

Each keeps the smallest part that holds a share tau of an energy: heads by their columns of the output projection,
neurons by up row times down column, ranks by singular values. Run in this order: a factorised layer has no heads or
neurons to remove. Nothing makes up for what is removed; see ``compensate`` and ``whitened`` for methods that do.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dinov3.compress.selection import check_share, kept_by_energy, rank_by_energy, rounded, smallest_part
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


class Spectra:
    """Singular values of matrices that a search for a share meets again and again, kept by their content."""

    def __init__(self) -> None:
        self._found: dict[tuple[torch.Size, bytes], Tensor] = {}

    def of(self, weight: Tensor) -> Tensor:
        """Falling, in float64."""
        content = weight.detach().contiguous().numpy().tobytes()
        key = (weight.shape, hashlib.blake2b(content, digest_size=16).digest())
        if key not in self._found:
            self._found[key] = torch.linalg.svdvals(weight.double())
        return self._found[key]


def prune(backbone: Backbone, rule: str, tau: float, *, multiple: int = 1, sketch: Spectra | None = None) -> list[Cut]:
    """Apply one of RULES with share ``tau`` to every block, in place. Raises CompressError.

    ``sketch``: only the shapes are wanted; factors of matrices are zeros.
    """
    tau = check_share(tau, rule)
    if rule == "svd":
        return [cut for i, block in enumerate(blocks_of(backbone)) for cut in _ranks(block, i, tau, multiple, sketch)]
    step = {"heads": _heads, "mlp": _neurons}[rule]
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


def _ranks(block: Block, index: int, tau: float, multiple: int, sketch: Spectra | None) -> list[Cut]:
    """Every matrix but the gate, as in the reference; replaced only where it saves parameters."""
    names = (name for name in matrix_names(block) if name != "w1")
    return [cut for name in names if (cut := _rank(block, index, name, tau, multiple, sketch))]


def _rank(block: Block, index: int, name: str, tau: float, multiple: int, sketch: Spectra | None) -> Cut | None:
    weight = weight_of(block, name)
    if weight is None:  # a product already
        return None
    full = min(weight.shape)
    found = rank_by_energy(weight, tau) if sketch is None else smallest_part(sketch.of(weight).square(), tau)
    rank = rounded(found, full, multiple)
    saves = rank * sum(weight.shape) < weight.numel()
    if rank == full or not saves:
        return Cut(index, name, full, rank, replaced=False)
    if sketch is not None:
        factorise(block, name, weight.new_zeros(rank, weight.shape[1]), weight.new_zeros(weight.shape[0], rank))
        return Cut(index, name, full, rank)
    u, s, v = torch.linalg.svd(weight.double(), full_matrices=False)
    factorise(block, name, v[:rank].to(weight), (u[:, :rank] * s[:rank]).to(weight))
    lost = float(s[rank:].square().sum() / s.square().sum())
    return Cut(index, name, full, rank, lost=lost)
