"""KoLeo: spread features on the sphere by pushing each away from its nearest neighbours.

Source: Sablayrolles et al., "Spreading vectors for similarity search" (2019).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dinov3.distributed.collectives import gather_rows
from dinov3.distributed.context import rank

EPS = 1e-8  # keeps norm and logarithm finite, with finite gradients, for equal features


def koleo(features: Tensor) -> Tensor:
    """KoLeo loss of ``features [B, D]`` with neighbours among this process's rows.

    Returns:
        Scalar fp32: minus the mean log distance between each L2-normalised row and its nearest other row.
        0, with a graph, when B is 0 or 1: there is no neighbour.
    """
    with torch.autocast(features.device.type, enabled=False):
        x = _normalised(features)  # [B, D]
        return _spread(x, x, offset=0, topk=1)


def koleo_distributed(features: Tensor, topk: int = 1, loss_group_size: int | None = None) -> Tensor:
    """KoLeo loss of ``features [B, D]`` with neighbours among the rows of several processes.

    Args:
        features: the rows of this process; B is the same on all processes.
        topk: neighbours of each row.
        loss_group_size: rows that are looked through, those of consecutive processes; None for all processes.

    Returns:
        Scalar fp32: minus the mean log distance over this process's rows and their ``topk`` neighbours; gradients
        also reach the neighbours' processes. 0, with a graph, when the group has less than 2 rows.

    Raises:
        ValueError: ``loss_group_size`` is no multiple of B or does not divide the rows of all processes, or a group
            has no ``topk`` other rows.
    """
    with torch.autocast(features.device.type, enabled=False):
        x = _normalised(features)  # [B, D]
        everyone = gather_rows(x)  # [world * B, D]
        n_local, n_all = x.shape[0], everyone.shape[0]
        size = n_all if loss_group_size is None else loss_group_size
        if n_local and (size % n_local or n_all % size):
            raise ValueError(
                f"koleo loss_group_size {size}: must be a multiple of the {n_local} rows of a process "
                f"and divide the {n_all} rows of all processes"
            )
        first = rank() * n_local  # of this process's rows among everyone's
        start = first - first % size if n_local else 0  # of the group
        return _spread(x, everyone[start : start + size], offset=first - start, topk=topk)


def _normalised(features: Tensor) -> Tensor:
    return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1, eps=EPS)


def _spread(x: Tensor, group: Tensor, offset: int, topk: int) -> Tensor:
    """Minus the mean log distance from ``x [B, D]``, rows ``offset`` on of ``group [N, D]``, to its neighbours there."""
    if group.shape[0] < 2:
        return x.sum() * 0
    if not 1 <= topk < group.shape[0]:
        raise ValueError(f"koleo topk {topk}: {group.shape[0]} rows have 1 to {group.shape[0] - 1} neighbours each")
    with torch.no_grad():
        similarity = x @ group.T  # [B, N]
        similarity.diagonal(offset).fill_(-torch.inf)
        neighbours = similarity.topk(topk, dim=-1).indices  # [B, topk]
    difference = x[:, None] - group[neighbours] + EPS  # [B, topk, D]
    return -torch.log(difference.norm(dim=-1) + EPS).mean()
