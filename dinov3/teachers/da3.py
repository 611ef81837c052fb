"""A frozen Depth Anything 3 encoder that looks at the clean global crops."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from dinov3.config.derived import DA3_PATCH
from dinov3.config.schema import Config
from dinov3.contracts import CropBatch, TeacherView
from dinov3.distributed.shard import compile_forward, shard_frozen
from dinov3.models.token_grid import resample_tokens
from dinov3.teachers.base import Grid, Parts, Teacher


class Da3Teacher(Teacher):
    """Owns the encoder outside the module tree: no state dict, optimizer, EMA or ``.train()`` ever sees it."""

    name = "da3"

    @classmethod
    def build(cls, cfg: Config, parts: Parts) -> Self | None:
        """When ``da3.enabled``."""
        return cls(cfg, parts.device) if cfg.da3.enabled else None

    def output(self, batch: CropBatch, ema: TeacherView, grid: Grid, step: int) -> TeacherView:
        return self.view(batch.collated_global_crops_clean, batch.mask_indices_list, grid)

    @torch.no_grad()
    def view(self, clean_crops: Tensor | None, mask_indices_list: Tensor, grid: Grid) -> TeacherView:
        """``tokens [M, D']`` at the masked positions, or of every patch with ``da3.loss_on: all``.

        ``clean_crops [G*B, 3, H, W]``; ``mask_indices_list [M]`` indexes their flattened student grid.
        """
        assert clean_crops is not None  # the loader makes them when da3.enabled
        tokens = self.tokens(clean_crops, grid).flatten(0, 1)  # [G*B*P, D']
        return TeacherView(tokens=tokens.index_select(0, mask_indices_list) if self.masked else tokens, grid=grid)

    def __init__(self, cfg: Config, device: torch.device) -> None:
        from dinov3.teachers.da3_backbone import build_da3_backbone  # runs without DA3 load none of its code

        self.masked = cfg.da3.loss_on == "masked"
        model, self.embed_dim = build_da3_backbone(cfg.da3)
        self.encoder: nn.Module = model.to(device)
        self.blocks = list(model.backbone.pretrained.blocks)
        self.shared = cfg.da3.use_fsdp
        self.sharded = self.shared and shard_frozen(self.encoder, self.blocks)
        self.interpolates = cfg.da3.grid_mode == "interpolate_tokens"

    def prepare(self, *, compiled: bool) -> list[str]:
        """Compile the encoder on a GPU: whole, or its blocks where FSDP2 must step in between. Returns what to print."""
        done = []
        if compiled and next(self.encoder.parameters()).device.type == "cuda":
            for part in self.blocks if self.sharded else [self.encoder]:
                compile_forward(part)
            done.append("DA3 teacher: compiled")
        if self.shared:
            how = "sharded (FSDP2, inference only)" if self.sharded else "whole: one process has nothing to share with"
            done.append(f"DA3 teacher: {how}")
        return done

    @staticmethod
    def own_grid(clean_crops: Tensor) -> Grid:
        """(rows, cols) of the encoder's own patches on ``clean_crops [N, 3, H, W]``."""
        return clean_crops.shape[-2] // DA3_PATCH, clean_crops.shape[-1] // DA3_PATCH

    @torch.no_grad()
    def tokens(self, clean_crops: Tensor, grid: Grid) -> Tensor:
        """Tokens of ``clean_crops [N, 3, H, W]`` on the student's ``grid`` (rows, cols): ``[N, P, D]`` fp32.

        ValueError when the teacher's own grid is another one and ``da3.grid_mode`` is not ``interpolate_tokens``: the
        flat indices of masked patches would then name other places, often of other images.
        """
        own = self.own_grid(clean_crops)
        if own != grid and not self.interpolates:
            raise ValueError(
                f"DA3 sees clean crops of {clean_crops.shape[-2]} x {clean_crops.shape[-1]} px as {own[0]} x {own[1]} "
                f"patches, the student has {grid[0]} x {grid[1]}: make clean crops of {grid[0] * DA3_PATCH} x "
                f"{grid[1] * DA3_PATCH} px, or set da3.grid_mode=interpolate_tokens"
            )
        tokens: Tensor = self.encoder(clean_crops)  # [N, P', D]
        if tokens.shape != (len(clean_crops), own[0] * own[1], self.embed_dim):
            expected = [len(clean_crops), own[0] * own[1], self.embed_dim]
            raise ValueError(f"the DA3 encoder returned tokens {list(tokens.shape)}, expected {expected}")
        return resample_tokens(tokens, own, grid)  # [N, P, D], untouched when the grids are equal
