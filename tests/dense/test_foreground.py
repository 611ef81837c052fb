from __future__ import annotations

import torch

from dinov3.dense.foreground import foreground_iou, foreground_scores


def test_an_object_in_the_middle_is_the_foreground_whatever_the_sign() -> None:
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[:, 2:6, 3:6] = True
    for sign in (1, -1):
        patches = torch.randn(3, 8, 8, 5) * 0.1
        patches[masks] += sign * 3.0
        scores = foreground_scores(patches.flatten(1, 2), (8, 8))
        assert foreground_iou(scores, masks) > 0.95
