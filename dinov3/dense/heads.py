"""A fitted head as a function from patch features to logits, whichever way it was fitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dinov3.dense.linear_head import LinearHead
from dinov3.dense.probe import Ridge, fit_ridge

HELD_OUT = 5  # every fifth image chooses ridge's penalty


def ridge_head(ridge: Ridge) -> LinearHead:
    """The regression as the 1x1 convolution that it is."""
    head = LinearHead([ridge.weight.shape[0]], ridge.weight.shape[1], batchnorm=False, dropout=0.0)
    state = {"conv.weight": ridge.weight.T[:, :, None, None].contiguous(), "conv.bias": ridge.bias}
    head.load_state_dict(state, strict=True)
    return head.eval()


def fit_ridge_head(maps: Tensor, targets: Tensor, known: Tensor) -> tuple[LinearHead, Ridge]:
    """Fit patches ``maps [N, D, h, w]`` to ``targets [N, P, K]``, each counted by ``known [N, P]``.

    Every fifth image is held out to choose the penalty: patches of one image are too alike to do that.
    ValueError with fewer than two images with known patches.
    """
    patches = maps.flatten(2).mT  # [N, P, D]
    number = torch.arange(len(maps), device=maps.device)
    held = (number % HELD_OUT == HELD_OUT - 1) if len(maps) >= HELD_OUT else number == len(maps) - 1
    keep = known > 0
    ridge = fit_ridge(patches[keep], targets[keep], held[:, None].expand_as(keep)[keep], weights=known[keep])
    return ridge_head(ridge), ridge


@torch.no_grad()
def logits_of(head: LinearHead, patches: Tensor) -> Tensor:
    """Logits ``[K, h, w]`` of one image's ``[D, h, w]``, on the CPU."""
    device = next(head.parameters()).device
    found: Tensor = head([patches[None].to(device)])[0]
    return found.cpu()


Scores = Callable[[Tensor, tuple[int, int]], Tensor]  # patches [D, h, w], size -> scores [K, H, W]


def over_views(scores: Scores, views: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """``scores`` of an image's patches, averaged with those of its mirror (turned back) when there are two views."""
    found = [scores(views[0], size), *(scores(view, size).flip(-1) for view in views[1:])]
    return torch.stack(found).mean(0)
