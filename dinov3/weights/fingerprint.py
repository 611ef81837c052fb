"""A few numbers that a backbone makes of a fixed picture: the same weights in the same architecture give the same ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dinov3.contracts import Features
from dinov3.models.backbone import Backbone

COEFFICIENTS = 8  # of the class token and of the mean patch
TOLERANCE = 1e-3  # relative; machines differ by 1e-5, another head count, RoPE base or set of weights by more than 1e-2


def procedural_image(channels: int, rows: int, cols: int) -> Tensor:
    """[1, channels, rows, cols] float32, of the range of a normalised picture; no two patches and channels are alike."""
    y = torch.arange(rows, dtype=torch.float64)[:, None]
    x = torch.arange(cols, dtype=torch.float64)
    planes = [torch.sin(0.013 * x * y + 0.21 * y + 0.37 * x + 1.3 * c) * (1 + 0.01 * x) for c in range(channels)]
    return torch.stack(planes)[None].float()


@torch.no_grad()
def fingerprint(backbone: Backbone) -> list[float]:
    """The first cosine coefficients over the channels of the class token, then of the mean patch, on a 4 x 3 grid."""
    device, training, side = next(backbone.parameters()).device, backbone.training, backbone.stride
    backbone.eval()
    try:
        features = backbone(procedural_image(backbone.in_chans, 4 * side, 3 * side).to(device), is_training=True)
    finally:
        backbone.train(training)
    assert isinstance(features, Features)
    tokens = torch.stack([features.cls[0], features.patches[0].mean(0)]).double().cpu()  # [2, D]
    dim = tokens.shape[1]
    channel = torch.arange(dim, dtype=torch.float64) + 0.5
    waves = torch.stack([torch.cos(math.pi / dim * channel * k) for k in range(1, COEFFICIENTS + 1)])
    return [round(x, 6) for x in (tokens @ waves.T).flatten().tolist()]


def distance(found: Sequence[float], stored: Sequence[float]) -> float:
    """Relative distance of two fingerprints; infinite when they are of different kinds."""
    if len(found) != len(stored):
        return math.inf
    a, b = torch.tensor(found, dtype=torch.float64), torch.tensor(stored, dtype=torch.float64)
    return float((a - b).norm() / b.norm().clamp_min(1e-12))
