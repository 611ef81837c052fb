"""How far features have moved: cosine, which sees every rotation, and linear CKA, which sees none."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def mean_cosine(now: Tensor, start: Tensor) -> float:
    """Mean cosine of the rows of ``now [N, D]`` with those of ``start [N, D]``: 1 when directions are the same."""
    return float(F.cosine_similarity(now.double(), start.double(), dim=-1).mean())


def linear_cka(now: Tensor, start: Tensor) -> float:
    """Linear centred kernel alignment of ``now [N, D]`` with ``start [N, D']`` (Kornblith et al. 2019, section 3).

    ``|Y'X|^2 / (|X'X| |Y'Y|)`` (Frobenius norms) of the centred matrices: 0 to 1; 1 also for features that were rotated
    or scaled as a whole. 0 when one side is constant.
    """
    x, y = (t.double() - t.double().mean(0) for t in (now, start))
    own = torch.linalg.matrix_norm(x.T @ x) * torch.linalg.matrix_norm(y.T @ y)
    return float(torch.linalg.matrix_norm(y.T @ x).square() / own) if own > 0 else 0.0


def drift(now: dict[str, Tensor], start: dict[str, Tensor]) -> dict[str, float]:
    """``drift_cls_cosine``, ``drift_cls_cka`` and so on for each kind of token ``[N, D]``."""
    figures = {}
    for kind, tokens in now.items():
        figures[f"drift_{kind}_cosine"] = mean_cosine(tokens, start[kind])
        figures[f"drift_{kind}_cka"] = linear_cka(tokens, start[kind])
    return figures
