"""Cross entropy of student logits against teacher targets, for image tokens (DINO) and masked patches (iBOT).

Two forms of each. The plain one takes dense probabilities and follows the definition. The fused one takes ``Targets``:
each student row meets the sum of its teacher rows once, the forward keeps one log-sum-exp a row, the backward writes
``mass * softmax - q`` in the logits' dtype, and probabilities exist only for the rows in hand.

Sources: Caron et al., DINO (2021); Zhou et al., iBOT (2022).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dinov3.contracts import Targets
from dinov3.losses.passes import PLAIN, Passes, accumulate_dtype


def dino_cross_entropy(
    student_logits: Tensor,
    targets: Targets,
    student_temp: float = 0.1,
    *,
    ignore_diagonal: bool = False,
    passes: Passes = PLAIN,
) -> Tensor:
    """Mean cross entropy over images and pairs of student crop and teacher crop.

    Args:
        student_logits: ``[S, B, K]``, S student crops of B images; bf16, fp16 or fp32.
        targets: of logits ``[T, B, K]``.
        student_temp: above 0.
        ignore_diagonal: leave out the pairs of equal crop number.
        passes: the work on logits, plain or compiled.

    Returns:
        Scalar fp32: the sum over pairs and images, divided by their number.

    Raises:
        ValueError: B or K differ, or no pair is left.
    """
    n_pairs = _n_pairs(student_logits.shape[0], targets.logits.shape[0], ignore_diagonal)
    rows = _row_cross_entropy(student_logits, targets, student_temp, ignore_diagonal, passes)  # [S, B]
    return rows.sum() / (n_pairs * student_logits.shape[1])


def ibot_cross_entropy(
    student_logits: Tensor,
    targets: Targets,
    masks_weight: Tensor,
    n_images: int,
    student_temp: float = 0.1,
    *,
    passes: Passes = PLAIN,
) -> Tensor:
    """Weighted cross entropy of masked patches, per image.

    Args:
        student_logits: ``[N, K]``; rows from M on are padding and count nothing.
        targets: of logits ``[N, K]``.
        masks_weight: ``[M]``, 1 / masked tokens of the row's image.
        n_images: crops that were offered for masking (2B), masked or not.
        student_temp: above 0.
        passes: the work on logits, plain or compiled.

    Returns:
        Scalar fp32: the weighted sum over rows / ``n_images``; 0, with a graph, without rows.

    Raises:
        ValueError: N or K differ.
    """
    n_masked = masks_weight.shape[0]
    valid = Targets(targets.logits[None, :n_masked], targets.temperature, targets.row[None, :n_masked], targets.column)
    rows = _row_cross_entropy(student_logits[None, :n_masked], valid, student_temp, False, passes)  # [1, M]
    return (rows[0] * masks_weight).sum() / n_images


def dino_cross_entropy_plain(
    student_logits: Tensor, teacher: Tensor, student_temp: float = 0.1, *, ignore_diagonal: bool = False
) -> Tensor:
    """``dino_cross_entropy`` from its definition, with dense teacher probabilities ``teacher [T, B, K]``."""
    n_pairs = _n_pairs(student_logits.shape[0], teacher.shape[0], ignore_diagonal)
    log_p = torch.log_softmax(student_logits.to(accumulate_dtype(student_logits)) / student_temp, dim=-1)  # [S, B, K]
    total = log_p.new_zeros(())
    for s, student in enumerate(log_p):
        for t, q in enumerate(teacher):
            if not (ignore_diagonal and s == t):
                total = total - (q * student).sum()
    return total / (n_pairs * student_logits.shape[1])


def ibot_cross_entropy_plain(
    student_logits: Tensor, teacher: Tensor, masks_weight: Tensor, n_images: int, student_temp: float = 0.1
) -> Tensor:
    """``ibot_cross_entropy`` from its definition, with dense teacher probabilities ``teacher [N, K]``."""
    n_masked = masks_weight.shape[0]
    scaled = student_logits[:n_masked].to(accumulate_dtype(student_logits)) / student_temp
    per_row = -(teacher[:n_masked] * torch.log_softmax(scaled, dim=-1)).sum(-1)  # [M]
    return (per_row * masks_weight).sum() / n_images


def _n_pairs(n_student: int, n_teacher: int, ignore_diagonal: bool) -> int:
    n_pairs = n_student * n_teacher - (min(n_student, n_teacher) if ignore_diagonal else 0)
    if n_pairs == 0:
        raise ValueError(
            f"no pair of crops: {n_student} student, {n_teacher} teacher, ignore_diagonal={ignore_diagonal}"
        )
    return n_pairs


def _row_cross_entropy(
    student: Tensor, targets: Targets, student_temp: float, ignore_diagonal: bool, passes: Passes
) -> Tensor:
    """Cross entropy of each student row against the sum of its teacher rows. ``[S, N, K], [T, N, K] -> [S, N]``"""
    if student.shape[1:] != targets.logits.shape[1:]:
        raise ValueError(f"student logits {tuple(student.shape)} do not match targets {tuple(targets.logits.shape)}")
    factors = targets.logits, targets.row, targets.column
    settings = targets.temperature, student_temp, ignore_diagonal
    rows: Tensor = _SoftCrossEntropy.apply(student, *factors, settings, passes)
    return rows


class _SoftCrossEntropy(torch.autograd.Function):
    """``-sum_k q_k log_softmax(x / temp)_k`` a row, where q is the sum of the teacher rows that x is paired with."""

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,  # [S, N, K]
        teacher: Tensor,  # [T, N, K]
        row: Tensor,  # [T, N]
        column: Tensor,  # [K]
        settings: tuple[float, float, bool],  # teacher's and student's temperature, ignore_diagonal
        passes: Passes,
    ) -> Tensor:
        out, lse = passes.soft_cross_entropy(student, teacher, row, column, *settings)
        ctx.save_for_backward(student, teacher, row, column, lse)
        ctx.settings, ctx.gradient = settings, passes.soft_cross_entropy_gradient
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad_out / ctx.settings[1]  # [S, N]
        return ctx.gradient(*ctx.saved_tensors, scale, *ctx.settings), None, None, None, None, None
