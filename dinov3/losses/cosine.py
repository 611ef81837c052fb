"""One minus cosine similarity: make a student's tokens point where a teacher's do."""

from __future__ import annotations

import torch
from torch import Tensor

from dinov3.losses.rows import row_mean

EPS = 1e-12


def cosine_loss(student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
    """Weighted mean of ``1 - cosine`` over the rows of all processes, see ``row_mean``.

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
    return row_mean(distance, weights)


def _normalised(x: Tensor) -> Tensor:
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.where(norm > EPS, x / norm.clamp_min(EPS), 0)
