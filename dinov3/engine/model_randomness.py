"""The draws a model makes while it trains: drop path and RoPE augmentation use torch's own generators."""

from __future__ import annotations

import torch

from dinov3.data.randomness import digest


def seed_model_randomness(seed: int, step: int, share: int) -> None:
    """Make them a function of (seed, step, share of the global batch): process r of N, or part p of A: share r * A + p."""
    torch.manual_seed(int.from_bytes(digest(seed, "model", step, share, size=8), "little") >> 1)
