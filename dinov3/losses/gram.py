"""Gram anchoring: keep the student's patch-to-patch similarities close to those of an older teacher.

Source: Siméoni et al., "DINOv3" (2025), section on Gram anchoring.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from dinov3.distributed.transfer import send

Negatives = Literal["keep", "zero_both", "zero_teacher", "zero_shared"]
"""What to do with similarities below 0.

keep: nothing. zero_both: set to 0 on both sides (``gram.remove_neg``). zero_teacher: set to 0 in the teacher only, the
official number of ``gram.remove_only_teacher_neg``. zero_shared: as zero_teacher, and the student's are set to 0 where
the teacher's was negative too, which is what the official code says but tests for too late ever to do.
"""


def gram_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    normalize: bool = True,
    img_level: bool = True,
    negatives: Negatives = "keep",
    max_tokens: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mean squared difference of token similarity matrices.

    Args:
        student: ``[N, P, D]``, or ``[P, D]`` tokens of no particular image.
        teacher: the same shape up to D.
        normalize: similarities are cosines, otherwise dot products.
        img_level: compare the tokens of one image with each other only; needs ``[N, P, D]``.
        negatives: see ``Negatives``.
        max_tokens: compare at most so many tokens (of each image with ``img_level``, else of all), the same ones for
            student and teacher, drawn by ``generator``. The matrices have the square of that many entries.

    Returns:
        Scalar fp32: the mean over all entries; it does not grow with the number of tokens. 0, with a graph, without
        tokens.

    Raises:
        ValueError: shapes differ, ``img_level`` without images, unknown ``negatives``, or tokens to draw without a generator.
    """
    if student.shape[:-1] != teacher.shape[:-1]:
        raise ValueError(f"gram tokens differ: student {tuple(student.shape)}, teacher {tuple(teacher.shape)}")
    if img_level and student.ndim != 3:
        raise ValueError(f"gram.img_level needs tokens by image [N, P, D], got {tuple(student.shape)}")
    if negatives not in get_args(Negatives):
        raise ValueError(f"gram negatives {negatives!r}: choose from {get_args(Negatives)}")
    if not img_level:
        student, teacher = student.flatten(0, -2), teacher.flatten(0, -2)  # [N*P, D]
    if max_tokens is not None and student.shape[-2] > max_tokens:
        index = send(_drawn(student.shape[-2], max_tokens, generator), student.device)
        student, teacher = student.index_select(-2, index), teacher.index_select(-2, index)
    if not student.numel():
        return student.float().sum()
    with torch.autocast(student.device.type, enabled=False):
        similarity, target = _similarity(student, normalize), _similarity(teacher, normalize)  # [..., P, P]
        if negatives == "zero_both":
            similarity = similarity.clamp_min(0)
        elif negatives == "zero_shared":
            similarity = similarity.masked_fill((similarity < 0) & (target < 0), 0)
        if negatives != "keep":
            target = target.clamp_min(0)
        return F.mse_loss(similarity, target)


def negatives_rule(remove_neg: bool, remove_only_teacher_neg: bool, rule: str = "official") -> Negatives:
    """The meaning of the two config keys; ``rule``: what DINOv3's code does with the second, ``official``, or was
    written to do, ``published``. Raises ValueError when both are set.
    """
    if remove_neg and remove_only_teacher_neg:
        raise ValueError("gram.remove_neg and gram.remove_only_teacher_neg are both true: choose one")
    if remove_only_teacher_neg:
        return "zero_shared" if rule == "published" else "zero_teacher"
    return "zero_both" if remove_neg else "keep"


def _similarity(tokens: Tensor, normalize: bool) -> Tensor:
    tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
    if normalize:
        tokens = F.normalize(tokens, dim=-1)
    return tokens @ tokens.mT  # [..., P, P]


def _drawn(n_tokens: int, max_tokens: int, generator: torch.Generator | None) -> Tensor:
    """``max_tokens`` different indices below ``n_tokens``, ascending."""
    if generator is None:
        raise ValueError(f"gram max_tokens {max_tokens} of {n_tokens} tokens: a generator must draw them")
    order = torch.randperm(n_tokens, generator=generator, device=generator.device)
    return order[:max_tokens].sort().values
