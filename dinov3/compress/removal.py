"""Neurons and heads removed in the order of what they cost after the others have made up for them.

A layer ``y = W a + b`` sees activations with covariance C. When the units R are removed, the best linear guess of them
from the rest S is ``C_RS C_SS^-1 a_S``; folded into ``W_S`` it leaves the error of what cannot be guessed, and the mean
goes into the bias (least squares in closed form, as CORP, arXiv 2602.05243). Which units cost least is found by removing
them a few at a time from the inverse of C, as optimal brain surgery does (Hassibi and Stork 1993). ``variance`` is the
plain alternative (VBP, arXiv 2507.12988): the units of smallest variance, their mean folded into the bias, nothing else.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dinov3.compress.moments import Moments

RIDGE = 1e-3  # of the mean variance, on the diagonal: activations that always vanish leave C singular
STEPS = 64  # widths that are tried


class Left(NamedTuple):
    """``kept`` rising unit indices and the error their best replacement of all units leaves."""

    kept: Tensor
    error: float


def regularised(cov: Tensor, ridge: float = RIDGE) -> Tensor:
    """``cov`` [n, n] with a ridge of ``ridge`` times its mean variance."""
    level = ridge * cov.diagonal().mean().clamp_min(1e-12)
    return cov + level * torch.eye(len(cov), dtype=cov.dtype, device=cov.device)


def removal_curve(weight: Tensor, seen: Tensor, metric: Tensor, *, width: int, multiple: int) -> list[Left]:
    """From all units to the least, each step removing those that cost least then.

    Args:
        weight: [out, n] of the layer behind the units.
        seen: [n, n] covariance of the activations (second moment when the layer has no bias).
        metric: [out, out], what an error of the output means.
        width: channels a unit (1 for neurons, D_head for heads).
        multiple: every number of units after the first is a multiple of it.

    Returns:
        Numbers of units fall; errors rise.
    """
    units = weight.shape[1] // width
    inverse = torch.linalg.inv(regularised(seen.double()))
    weight, metric = weight.double().clone(), metric.double()
    step = -(-max(units // STEPS, 1) // multiple) * multiple
    left, error = torch.arange(units), 0.0
    curve = [Left(left, 0.0)]
    while len(left) > step:
        count = len(left) % step or step
        worth, blocks = _worth(weight, inverse, metric, width)
        gone = worth.sort(stable=True).indices[:count]
        weight, inverse, lost = _without(weight, inverse, metric, gone, width)
        error += lost
        stay = torch.ones(len(left), dtype=torch.bool)
        stay[gone] = False
        left = left[stay]
        curve.append(Left(left, error))
        del blocks
    return curve


def _worth(weight: Tensor, inverse: Tensor, metric: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """What each unit alone costs, [n]: tr(S^-1 W_u^T G W_u) with S its block of the inverse."""
    n = weight.shape[1] // width
    blocks = inverse.reshape(n, width, n, width).diagonal(dim1=0, dim2=2).permute(2, 0, 1)  # [n, width, width]
    parts = weight.T.reshape(n, width, -1)  # [n, width, out]
    gram = parts @ metric @ parts.mT  # [n, width, width]
    return torch.linalg.solve(blocks, gram).diagonal(dim1=1, dim2=2).sum(1).cpu(), blocks


def _without(weight: Tensor, inverse: Tensor, metric: Tensor, gone: Tensor, width: int) -> tuple[Tensor, Tensor, float]:
    """Weight and inverse of what stays, the rest having been made up for, and the error that this leaves."""
    channels = (gone[:, None] * width + torch.arange(width)).flatten().to(weight.device)
    stay = torch.ones(weight.shape[1], dtype=torch.bool, device=weight.device)
    stay[channels] = False
    block = inverse[channels][:, channels]
    moved = torch.linalg.solve(block, inverse[channels])  # [gone, n]
    removed = weight[:, channels]
    lost = float((torch.linalg.solve(block, removed.T @ metric @ removed)).diagonal().sum())
    weight = (weight - removed @ moved)[:, stay]
    inverse = (inverse - inverse[:, channels] @ moved)[stay][:, stay]
    return weight, inverse, max(lost, 0.0)


def compensated(
    weight: Tensor, bias: Tensor | None, found: Moments, kept: Tensor, *, width: int
) -> tuple[Tensor, Tensor | None]:
    """Weight [out, kept * width] and bias that make the best of the units ``kept``; in float64."""
    channels = (kept[:, None] * width + torch.arange(width)).flatten().to(weight.device)
    seen = regularised(found.cov if bias is not None else found.second)
    weight = weight.double()
    # W C_:S C_SS^-1: what all channels contribute as far as the kept ones can tell
    best = torch.linalg.solve(seen[channels][:, channels], seen[channels] @ weight.T).T
    if bias is None:
        return best, None
    return best, bias.double() + weight @ found.mean - best @ found.mean[channels]


def variance_curve(weight: Tensor, found: Moments, *, multiple: int) -> list[Left]:
    """As ``removal_curve`` for units that are replaced by their mean: variance times what a unit's column means."""
    weight = weight.double()
    worth = found.cov.diagonal() * (weight * (found.metric @ weight)).sum(0)
    order = worth.sort(descending=True, stable=True).indices.cpu()
    falling = worth[order].cpu()
    units = len(worth)
    step = -(-max(units // STEPS, 1) // multiple) * multiple
    counts = [units, *range((units - 1) // step * step, 0, -step)]
    return [Left(order[:count].sort().values, float(falling[count:].clamp_min(0).sum())) for count in counts]


def mean_folded(weight: Tensor, bias: Tensor, found: Moments, kept: Tensor) -> tuple[Tensor, Tensor]:
    """The columns ``kept`` of ``weight``, and the bias with the mean of the others in it."""
    gone = torch.ones(weight.shape[1], dtype=torch.bool, device=weight.device)
    gone[kept] = False
    return weight[:, kept], bias.double() + weight.double()[:, gone] @ found.mean[gone]
