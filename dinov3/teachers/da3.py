"""A frozen Depth Anything 3 encoder that looks at the clean global crops."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dinov3.config.schema import Config
from utility.da3_backbone import PATCH, build_da3_backbone, resample_tokens, teacher_input_size

Grid = tuple[int, int]


def clean_crop_size(cfg: Config) -> int:
    """Side in pixels of the clean crops the teacher wants; ValueError when no size gives it the student's grid.

    With ``da3.grid_mode: resize_input`` the teacher's grid must equal the student's (256 / 16 = 224 / 14 = 16);
    with ``interpolate_tokens`` any multiple of 14 does, by default the nearest below the student's size.
    """
    size, patch = cfg.crops.global_crops_size, cfg.student.patch_size
    da3 = cfg.da3
    if da3.grid_mode == "resize_input":
        wanted = teacher_input_size(size, patch)
        if da3.teacher_size not in (None, wanted):
            raise ValueError(
                f"da3.teacher_size: {da3.teacher_size} gives the teacher a grid of {da3.teacher_size / PATCH:g}, the "
                f"student's is {size // patch}: use {wanted}, or da3.grid_mode=interpolate_tokens"
            )
        return wanted
    chosen = da3.teacher_size or size // PATCH * PATCH
    if chosen % PATCH:
        low = chosen // PATCH * PATCH
        raise ValueError(f"da3.teacher_size: {chosen} is not a multiple of patch {PATCH}: use {low} or {low + PATCH}")
    return chosen


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
