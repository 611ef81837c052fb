"""A linear layer whose result is scaled by channel."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def scaled(layer: nn.Module, x: Tensor, gamma: Tensor | None) -> Tensor:
    """``layer(x) * gamma``, the factor folded into the weight and bias of a plain linear layer. ``[..., D]``

    The result need not be kept for the gradient of ``gamma [D]`` then.
    """
    if gamma is None:
        return layer(x)
    if type(layer) is not nn.Linear or list(layer.children()):  # an adapter adds to the layer's own result
        return layer(x) * gamma
    return F.linear(x, layer.weight * gamma[:, None], None if layer.bias is None else layer.bias * gamma)
