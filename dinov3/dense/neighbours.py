"""Dense k-NN: each patch votes with the classes of the most similar training patches. No training, one line of result."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BANK = 20_000  # training patches at most, drawn by seed
BLOCK = 1024  # queries at once


def class_shares(labels: Tensor, grid: tuple[int, int], classes: int) -> tuple[Tensor, Tensor]:
    """(shares ``[N, P, classes]`` of each class in each patch, labelled share ``[N, P]``) of labels ``[N, H, W]``.

    Sides are multiples of the grid's. Numbers outside [0, classes) count as unlabelled; a patch without a label has
    shares of 0.
    """
    rows, columns = grid
    n, height, width = labels.shape
    tiles = (
        labels.long().view(n, rows, height // rows, columns, width // columns).transpose(2, 3).flatten(3).flatten(1, 2)
    )
    inside = (tiles >= 0) & (tiles < classes)
    counts = torch.zeros(n, rows * columns, classes + 1, dtype=torch.float32, device=labels.device)
    counts.scatter_add_(2, torch.where(inside, tiles, classes), torch.ones_like(tiles, dtype=torch.float32))
    known = counts[..., :classes].sum(-1)
    return counts[..., :classes] / known.clamp_min(1)[..., None], known / tiles.shape[-1]


def patch_bank(
    features: Tensor, shares: Tensor, known: Tensor, *, seed: int, most: int = BANK
) -> tuple[Tensor, Tensor]:
    """(unit vectors ``[B, D]``, shares ``[B, C]``) of at most ``most`` labelled patches, drawn by ``seed``."""
    rows = known.nonzero()[:, 0]
    if len(rows) > most:
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:most]]
    return F.normalize(features[rows].float(), dim=1), shares[rows]


def neighbour_votes(bank: Tensor, shares: Tensor, queries: Tensor, *, k: int = 30, temperature: float = 0.07) -> Tensor:
    """Class shares ``[Q, C]`` of ``queries [Q, D]``: those of the k most similar patches, by exp(cosine / temperature)."""
    parts = []
    for block in F.normalize(queries.float(), dim=1).split(BLOCK):
        similarity, nearest = (block @ bank.T).topk(min(k, len(bank)), dim=1)
        weights = ((similarity - similarity[:, :1]) / temperature).exp()
        votes = (weights[:, :, None] * shares[nearest]).sum(1)
        parts.append(votes / weights.sum(1, keepdim=True))
    return torch.cat(parts)
