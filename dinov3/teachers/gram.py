"""The Gram teacher: an older backbone whose patch similarities the student should keep."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3.config.schema import Config, GramConfig
from dinov3.contracts import CropBatch, Features, TeacherView
from dinov3.teachers.base import Grid, Parts, Teacher
from dinov3.weights.own import load_model


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


class GramTeacher(Teacher):
    """An older backbone of its own, or the EMA itself."""

    name = "gram"
    state_name = "gram_teacher"

    def __init__(self, cfg: GramConfig, ema: nn.ModuleDict, model: nn.ModuleDict | None) -> None:
        """``model``: of the student's architecture; None: the EMA is the Gram teacher."""
        self.cfg, self.ema, self.model = cfg, ema, model

    @classmethod
    def build(cls, cfg: Config, parts: Parts) -> Self | None:
        """When ``gram.use_loss``."""
        if not cfg.gram.use_loss:
            return None
        return cls(cfg.gram, parts.ema, None if cfg.gram.ema_teacher else parts.like_student())

    def load(self) -> list[str]:
        return [load_model(self.model, Path(self.cfg.ckpt))] if self.model is not None and self.cfg.ckpt else []

    def copy_start(self, ema: nn.ModuleDict) -> None:
        if self.model is not None:
            self.model["backbone"].load_state_dict(ema["backbone"].state_dict())

    def before_step(self, step: int, ema: nn.ModuleDict) -> None:
        if self.loads_ema_before(step):
            self.copy_start(ema)

    def after_step(self, step: int, ema: nn.ModuleDict) -> None:
        """Copy the EMA teacher when it is due."""
        if self.updates_after(step):
            self.copy_start(ema)

    def output(self, batch: CropBatch, ema: TeacherView, grid: Grid, step: int) -> TeacherView | None:
        """``patches [G*B, P, D]``; None before it has weights.

        From the Gram crops when the batch has them, else from the global crops; with ``gram.ema_teacher`` and no Gram
        crops they are what the EMA teacher has just computed.
        """
        if not self.ready(step):
            return None
        crops = batch.collated_gram_teacher_crops
        if self.model is None and crops is None:
            assert ema.patches is not None  # a pass that students share has none, and the config refuses both
            assert ema.grid is not None
            return TeacherView(patches=resized_patches(ema.patches, ema.grid, grid, self.cfg), grid=grid)
        views = batch.collated_global_crops if crops is None else crops
        model = self.ema if self.model is None else self.model
        return TeacherView(patches=self.patches(model["backbone"], views, grid), grid=grid)

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
