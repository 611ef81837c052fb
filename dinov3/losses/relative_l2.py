"""Squared distance to a teacher's token, in units of that token's squared norm: also lengths are to be kept."""

from __future__ import annotations

import torch
from torch import Tensor

from dinov3.losses.rows import row_mean

EPS = 1e-12


def relative_l2_loss(student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
    """Weighted mean of ``|student - teacher|^2 / |teacher|^2`` over the rows of all processes, see ``row_mean``.

    Args:
        student: ``[..., D]``.
        teacher: the same shape; no gradient.
        weights: ``[...]``, 0 or more; None counts every row the same.

    Returns:
        Scalar fp32. Rows whose teacher is 0 count as the squared norm of the student's.

    Raises:
        ValueError: shapes differ.
    """
    if student.shape != teacher.shape or (weights is not None and weights.shape != student.shape[:-1]):
        shapes = [tuple(x.shape) for x in (student, teacher, weights) if x is not None]
        raise ValueError(f"rows differ: student, teacher, weights have shapes {shapes}")
    dtype = torch.promote_types(student.dtype, torch.float32)
    student, teacher = student.to(dtype), teacher.detach().to(dtype)
    squared = teacher.square().sum(-1)  # [...]
    distance = (student - teacher).square().sum(-1) / torch.where(squared > EPS, squared, 1)
    return row_mean(distance, weights)
