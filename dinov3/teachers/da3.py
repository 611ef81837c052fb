"""A frozen Depth Anything 3 encoder that looks at the clean global crops."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dinov3.config.schema import Config
from utility.da3_backbone import PATCH, build_da3_backbone, resample_tokens

Grid = tuple[int, int]


class Da3Teacher:
    """Owns the encoder outside the module tree: no state dict, optimizer, EMA or ``.train()`` ever sees it."""

    def __init__(self, cfg: Config, device: torch.device) -> None:
        model, self.embed_dim = build_da3_backbone(cfg.da3)
        self.model: nn.Module = model.to(device)

    @torch.no_grad()
    def tokens(self, clean_crops: Tensor, grid: Grid) -> Tensor:
        """Tokens of ``clean_crops [N, 3, H, W]`` on the student's ``grid``: ``[N, P, D]`` fp32."""
        tokens: Tensor = self.model(clean_crops)  # [N, P', D]
        own = (clean_crops.shape[-2] // PATCH, clean_crops.shape[-1] // PATCH)
        if own != grid:
            tokens = resample_tokens(tokens, own, grid)
        if tokens.shape[1] != grid[0] * grid[1]:
            raise ValueError(f"DA3 gave {tokens.shape[1]} tokens, the student's grid {grid} has {grid[0] * grid[1]}")
        return tokens
