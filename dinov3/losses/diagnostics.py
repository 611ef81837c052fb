"""Is a training run healthy? Numbers that fall when features collapse, long before anyone looks at a picture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dinov3.contracts import Targets
from dinov3.losses.passes import PLAIN, Passes


@torch.no_grad()
def feature_spread(features: Tensor) -> Tensor:
    """How far vectors ``[N, D]`` point apart: mean over dimensions of the std of L2-normalised rows, times sqrt(D).

    1 for directions spread evenly over the sphere, 0 when all are the same (Chen and He 2021, "Exploring simple
    Siamese representation learning", section 4.1).
    """
    unit = F.normalize(features.float(), dim=-1)
    return unit.std(0, correction=0).mean() * features.shape[-1] ** 0.5


@torch.no_grad()
def rankme(features: Tensor, epsilon: float = 1e-7) -> Tensor:
    """Effective rank of ``[N, D]``: exp of the entropy of the normalised singular values, between 1 and min(N, D).

    Garrido et al. 2023, "RankMe", eq. 1 (features are not centred).
    """
    values = torch.linalg.svdvals(features.float())
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny) + epsilon
    return torch.exp(-(shares * shares.log()).sum())


@torch.no_grad()
def target_entropy(targets: Targets, passes: Passes = PLAIN) -> Tensor:
    """Mean entropy of the target rows in nats: ln K when the teacher says nothing, 0 when it is always certain."""
    logits, row = targets.logits.flatten(0, -2), targets.row.flatten()  # [N, K], [N]
    return passes.entropy_sum(logits, targets.temperature, row, targets.column) / max(len(row), 1)


@torch.no_grad()
def prototype_usage(targets: Targets, passes: Passes = PLAIN) -> Tensor:
    """Distinct most probable prototypes of the target rows, over as many as there could be: min(rows, K)."""
    logits = targets.logits.flatten(0, -2)  # [N, K]
    if not len(logits):
        return targets.column.new_zeros(())
    best = passes.most_probable(logits, targets.temperature, targets.column)
    used = torch.zeros(logits.shape[1], device=logits.device).index_fill_(0, best, 1.0)
    return used.sum() / min(logits.shape)
