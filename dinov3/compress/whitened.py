"""A matrix as a product of two, with the rank that its outputs need, not its weights.

``W`` is factorised after multiplication with square roots of the second moments of what it sees and of what its output
means: the squared singular values of ``G^1/2 W C^1/2`` are then the error a rank leaves in the features (the input side
as in SVD-LLM, arXiv 2403.07378; the output side as in Fisher-weighted SVD). The mean goes into the bias.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dinov3.compress.moments import Moments
from dinov3.compress.removal import regularised

STEPS = 64  # ranks that are tried


class Factors(NamedTuple):
    """``second[:, :r] @ first[:r]`` is the best matrix of rank r; ``errors[r]`` is what it leaves."""

    first: Tensor  # [m, in]
    second: Tensor  # [out, m]
    errors: Tensor  # [m + 1]


def factors(weight: Tensor, found: Moments, *, has_bias: bool) -> Factors:
    """Of ``weight`` [out, in], in float64."""
    weight = weight.double()
    root_in, unroot_in = roots(found.cov if has_bias else found.second)
    root_out, unroot_out = roots(found.metric)
    u, s, v = torch.linalg.svd(root_out @ weight @ root_in, full_matrices=False)
    squares = s.square()
    errors = torch.cat([squares.flip(0).cumsum(0).flip(0), squares.new_zeros(1)])
    return Factors(v @ unroot_in, unroot_out @ (u * s), errors)


def roots(moment: Tensor) -> tuple[Tensor, Tensor]:
    """The symmetric square root of a regularised second moment, and its inverse."""
    values, vectors = torch.linalg.eigh(regularised(moment.double()))
    values = values.clamp_min(1e-12 * float(values.max().clamp_min(1e-30)))
    return (vectors * values.sqrt()) @ vectors.T, (vectors * values.rsqrt()) @ vectors.T


def ranks_to_try(out_features: int, in_features: int, multiple: int) -> list[int]:
    """Ranks that save parameters, falling: multiples of ``multiple``, at most STEPS of them."""
    most = -(-out_features * in_features // (out_features + in_features)) - 1
    step = -(-max(most // STEPS, 1) // multiple) * multiple
    return list(range(most // step * step, 0, -step))


def bias_for(weight: Tensor, product: Tensor, bias: Tensor | None, mean: Tensor) -> Tensor | None:
    """The bias with which ``product`` gives what ``weight`` gives at the mean input."""
    return None if bias is None else bias.double() + (weight.double() - product) @ mean
