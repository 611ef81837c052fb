"""The Fréchet distance between two sets of features (Heusel et al. 2017), in the features of the backbone at hand."""

from __future__ import annotations

import torch
from torch import Tensor


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Of Gaussians fitted to ``a [N, D]`` and ``b [M, D]``, in float64. It falls with N: compare equal numbers only.

    ``|mean - mean|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2)``. ValueError for fewer than two rows.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError("a Fréchet distance needs at least two images on each side")
    a, b = a.double(), b.double()
    cov_a, cov_b = (torch.atleast_2d(torch.cov(x.T)) for x in (a, b))
    root = _root(cov_a)
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    means = (a.mean(0) - b.mean(0)).square().sum()
    return float((means + cov_a.trace() + cov_b.trace() - 2 * cross).clamp(min=0))


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
