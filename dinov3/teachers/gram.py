"""The Gram teacher: an older backbone whose patch similarities the student should keep."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3.config.schema import GramConfig
from dinov3.contracts import Features

Grid = tuple[int, int]


def resized_patches(patches: Tensor, grid: Grid, to: Grid, cfg: GramConfig) -> Tensor:
    """Patch tokens ``[N, P, D]`` on ``grid`` brought to the grid ``to``, as ``gram.global_teacher_resize_*`` say."""
    if grid == to:
        return patches
    image = patches.unflatten(1, grid).permute(0, 3, 1, 2)  # [N, D, rows, cols]
    method = cfg.global_teacher_resize_method
    smooth = method in ("bicubic", "bilinear")
    image = F.interpolate(
        image,
        size=to,
        mode=method,
        align_corners=False if smooth else None,
        antialias=cfg.global_teacher_resize_antialias and smooth,
    )
    return image.flatten(2).mT  # [N, P', D]


class GramTeacher:
    """Decides when the teacher changes, and what it says about a batch. The weights live in SSLMetaArch."""

    def __init__(self, cfg: GramConfig) -> None:
        self.cfg = cfg

    def loads_ema_before(self, iteration: int) -> bool:
        """The EMA teacher is copied into the Gram teacher before this step."""
        return not self.cfg.ema_teacher and iteration == self.cfg.it_load_ema_teacher

    def updates_after(self, iteration: int) -> bool:
        """The EMA teacher is copied again after this step: a function of the step alone, so nothing need be saved."""
        cfg, done = self.cfg, iteration + 1
        if cfg.ema_teacher or not cfg.rep_update or done < cfg.it_first_update or done % cfg.update_frequency:
            return False
        first = max(-(-cfg.it_first_update // cfg.update_frequency), 1)  # the first multiple that counts
        return cfg.max_updates is None or done // cfg.update_frequency - first < cfg.max_updates

    def ready(self, iteration: int) -> bool:
        """There are weights to compare with: from a file, from the EMA at a past step, or the EMA itself."""
        cfg = self.cfg
        return cfg.ema_teacher or cfg.ckpt is not None or 0 <= cfg.it_load_ema_teacher <= iteration

    @torch.no_grad()
    def patches(self, backbone: nn.Module, crops: Tensor, grid: Grid) -> Tensor:
        """Normed patch tokens of ``crops [N, C, H, W]`` on the student's ``grid``: ``[N, P, D]``."""
        out: Features = backbone(crops, is_training=True)
        return resized_patches(out.patches, out.grid, grid, self.cfg)
