"""From channels to metres: depth as a weighted sum of fixed bins, and padding to whole patches."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

MIXED = "chmv2_mixlog"  # of DINOv3's canopy height head, which was trained on depths divided by 8
MIXED_SCALE = 8.0
BINS, NORMS = ("linear", "log", MIXED), ("linear", "softmax", "sigmoid", MIXED)


def depth_bins(n: int, low: float, high: float, rule: str = "linear") -> Tensor:
    """Depths ``[n]`` float32 that the channels stand for: evenly spaced, or evenly in the logarithm.

    ``chmv2_mixlog`` goes from the logarithmic bins to the linear ones as the depth rises, up to ``high`` / 8.
    """
    if rule not in BINS:
        raise ValueError(f"bins {rule!r}: choose {', '.join(BINS)}")
    high = high / MIXED_SCALE if rule == MIXED else high
    linear = torch.linspace(low, high, n)
    even_in_log = torch.linspace(math.log(low), math.log(high), n).exp() if rule != "linear" else linear
    return even_in_log.lerp(linear, torch.linspace(0, 1, n)) if rule == MIXED else even_in_log


def depth_of(logits: Tensor, low: float, high: float, *, bins: str = "linear", norm: str = "linear") -> Tensor:
    """Depth ``[N, 1, h, w]`` of ``logits [N, bins, h, w]``; of one channel: relu(x) + low."""
    if logits.shape[1] == 1:
        return logits.relu() + low
    centres = depth_bins(logits.shape[1], low, high, bins).to(logits)
    depth = torch.einsum("nkhw,k->nhw", bin_weights(logits, norm), centres)[:, None]
    return depth * MIXED_SCALE if norm == MIXED else depth


def bin_weights(logits: Tensor, norm: str = "linear") -> Tensor:
    """Weights of the bins, which sum to 1 over dimension 1: relu + 0.1, softmax or sigmoid, divided by their sum.

    The 0.1 keeps a pixel without a positive channel in the middle of the range instead of at 0 / 0 (AdaBins, DINOv3).
    """
    if norm not in NORMS:
        raise ValueError(f"norm {norm!r}: choose {', '.join(NORMS)}")
    if norm == "softmax":
        return logits.softmax(1)
    if norm == MIXED:  # no 0.1: zero channels stay zero, and a pixel of zeros gets the depth 0
        positive = logits.relu()
        return positive / positive.sum(1, keepdim=True).clamp_min(torch.finfo(logits.dtype).tiny)
    weights = logits.relu() + 0.1 if norm == "linear" else logits.sigmoid()
    return weights / weights.sum(1, keepdim=True)


def pad_to_multiple(images: Tensor, multiple: int, mode: str = "center") -> Tensor:
    """``images [N, C, H, W]`` with sides that ``multiple`` divides.

    ``center`` adds zeros on all sides, the odd pixel right and below; ``stretch`` resizes bilinearly.
    """
    height, width = images.shape[-2:]
    rows, columns = -height % multiple, -width % multiple
    if mode == "center":
        return F.pad(images, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
    if mode == "stretch":
        return F.interpolate(images, (height + rows, width + columns), mode="bilinear", align_corners=False)
    raise ValueError(f"padding {mode!r}: choose center or stretch")
