"""Patch features of a video as colours that mean the same in every frame: the first frame's principal components."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dinov3.data.decode import Pixels


class FrameColours:
    """``colours(features [h, w, D], (H, W))`` is a picture ``[H, W, 3]``; the first call fixes the three components."""

    def __init__(self) -> None:
        self._basis: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def __call__(self, features: Tensor, size: tuple[int, int]) -> Pixels:
        """The picture of one frame. ValueError for fewer than three patches or features in the first."""
        flat = features.float().flatten(0, 1)
        if self._basis is None:
            if min(flat.shape) < 3:
                raise ValueError(
                    f"{flat.shape[0]} patches of {flat.shape[1]} features: three colours need three of each"
                )
            mean = flat.mean(0)
            directions = torch.linalg.svd(flat - mean, full_matrices=False)[2][:3].T
            scores = (flat - mean) @ directions
            self._basis = (mean, directions, scores.quantile(0.02, dim=0), scores.quantile(0.98, dim=0))
        mean, directions, low, high = self._basis
        scores = ((flat - mean) @ directions - low) / (high - low).clamp_min(1e-8)
        maps = scores.clamp(0, 1).view(*features.shape[:2], 3).permute(2, 0, 1)
        shown = F.interpolate(maps[None], size, mode="nearest")[0].permute(1, 2, 0)
        return (shown * 255).round().cpu().numpy().astype(np.uint8)
