"""Foreground by PCA: the first principal component of patch features splits object from background, without labels."""

from __future__ import annotations

import torch
from torch import Tensor

from dinov3.dense.segmentation import areas


def foreground_scores(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """First principal component ``[N, rows, cols]`` of ``patches [N, P, D]`` over all images, 0 in the middle.

    Its sign is arbitrary. It is turned so that patches on the images' border are negative: objects are
    photographed in the middle (the assumption of DINOv2's figures, made explicit).
    """
    flat = patches.float().flatten(0, 1)
    centred = flat - flat.mean(0)
    _, vectors = torch.linalg.eigh(centred.T.double() @ centred.double())
    scores = (centred @ vectors[:, -1].float()).view(len(patches), *grid)
    border = torch.ones(grid, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    middle = ~border
    turned = scores[:, border].mean() > (scores[:, middle].mean() if middle.any() else 0)
    return -scores if turned else scores


def foreground_iou(scores: Tensor, masks: Tensor) -> float:
    """Mean over images of the IoU of ``scores > 0`` and ``masks [N, rows, cols]`` (bool)."""
    each = []
    for score, mask in zip(scores, masks, strict=True):
        table = areas((score > 0).long(), mask.long(), 2).double()
        each.append(table[0, 1] / table[1, 1])
    return float(torch.stack(each).nanmean())
