"""One minus cosine similarity: make a student's tokens point where a teacher's do."""

from __future__ import annotations

import torch
from torch import Tensor

from dinov3.distributed.collectives import all_reduce_sum
from dinov3.distributed.context import world_size

EPS = 1e-12


def cosine_loss(student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
    """Weighted mean of ``1 - cosine`` over the rows of all processes.

    Processes may hold different numbers of rows, also none. Each returns its own rows' share times the number of
    processes, so that the mean over processes, which is what averaged gradients follow, is the mean over all rows.

    Args:
        student: ``[..., D]``.
        teacher: the same shape.
        weights: ``[...]``, 0 or more; None counts every row the same.

    Returns:
        Scalar fp32, in 0 .. 2 when alone. 0, with a graph, when there is no row or no weight. A zero vector has
        cosine 0 with everything, and gradient 0.

    Raises:
        ValueError: shapes differ.
    """
    if student.shape != teacher.shape or (weights is not None and weights.shape != student.shape[:-1]):
        shapes = [tuple(x.shape) for x in (student, teacher, weights) if x is not None]
        raise ValueError(f"cosine rows differ: student, teacher, weights have shapes {shapes}")
    distance = 1 - (_normalised(student) * _normalised(teacher)).sum(-1)  # [...]
    if weights is None:
        weights = torch.ones_like(distance)
    total = all_reduce_sum(weights.sum())
    return world_size() * (distance * weights).sum() / torch.where(total > 0, total, 1)


def _normalised(x: Tensor) -> Tensor:
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.where(norm > EPS, x / norm.clamp_min(EPS), 0)
