"""A frozen backbone that says what its features of the global crops are, on the student's grid."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3.config.schema import Config
from dinov3.contracts import CropBatch, Features, TeacherView
from dinov3.distributed.shard import compile_forward
from dinov3.features.extract import load
from dinov3.models.token_grid import resample_tokens
from dinov3.teachers.base import Grid, Parts, Teacher


@torch.no_grad()
def frozen_features(backbone: nn.Module, crops: Tensor, grid: Grid) -> TeacherView:
    """``cls [N, D]`` and ``patches [N, P, D]`` of ``crops [N, C, H, W]``, patches interpolated to the student's ``grid``."""
    out: Features = backbone(crops, is_training=True)
    return TeacherView(cls=out.cls, patches=resample_tokens(out.patches, out.grid, grid), grid=grid)


def shrunk(images: Tensor, scale: float) -> Tensor:
    """``images [N, C, H, W]`` at 1 / ``scale`` of their size: a teacher with finer patches then has the student's grid."""
    if scale == 1:
        return images
    return F.interpolate(images, scale_factor=1 / scale, mode="bilinear", antialias=True)


class AnchorTeacher(Teacher):
    """The backbone as it was before step 0."""

    name = "feature_anchor"
    state_name = "anchor_teacher"

    def __init__(self, model: nn.ModuleDict) -> None:
        self.model = model
        self.backbone = model["backbone"]

    @classmethod
    def build(cls, cfg: Config, parts: Parts) -> Self | None:
        """When ``feature_anchor.enabled``."""
        return cls(parts.like_student()) if cfg.feature_anchor.enabled else None

    def copy_start(self, ema: nn.ModuleDict) -> None:
        self.backbone.load_state_dict(ema["backbone"].state_dict())

    def output(self, batch: CropBatch, ema: TeacherView, grid: Grid, step: int) -> TeacherView:
        return frozen_features(self.backbone, batch.collated_global_crops, grid)


class FeatureTeacher(Teacher):
    """Any backbone from a file. Owned outside the module tree: no state dict, optimizer, EMA or ``.train()`` sees it."""

    name = "feature_distillation"

    def __init__(self, cfg: Config, device: torch.device) -> None:
        extractor = load(Path(cfg.feature_distillation.checkpoint), device=device)
        self.backbone = extractor.backbone.requires_grad_(False).eval()
        self.embed_dim = self.backbone.embed_dim
        self.input_size, self.patch = cfg.feature_distillation.input_size, extractor.preprocess.patch
        # crops are normalised for the student; x -> (x * std + mean - its mean) / its std
        (mean, std), theirs = (torch.tensor(v) for v in (cfg.crops.rgb_mean, cfg.crops.rgb_std)), extractor.preprocess
        if len(theirs.mean) != len(mean):
            raise ValueError(
                f"feature_distillation.checkpoint {cfg.feature_distillation.checkpoint}: its images have "
                f"{len(theirs.mean)} channels, student.in_chans is {len(mean)}"
            )
        shape = (1, -1, 1, 1)
        self.factor = (std / torch.tensor(theirs.std)).reshape(shape).to(device)
        self.offset = ((mean - torch.tensor(theirs.mean)) / torch.tensor(theirs.std)).reshape(shape).to(device)

    def prepare(self, *, compiled: bool) -> list[str]:
        """Compile the backbone on a GPU. Returns what to print."""
        if not compiled or self.factor.device.type != "cuda":
            return []
        compile_forward(self.backbone)
        return ["feature distillation's teacher: compiled"]

    @classmethod
    def build(cls, cfg: Config, parts: Parts) -> Self | None:
        """When ``feature_distillation.enabled``; WeightsError when its file cannot be read."""
        return cls(cfg, parts.device) if cfg.feature_distillation.enabled else None

    def output(self, batch: CropBatch, ema: TeacherView, grid: Grid, step: int) -> TeacherView:
        return self.features(batch.collated_global_crops, grid)

    def features(self, crops: Tensor, grid: Grid) -> TeacherView:
        """``frozen_features`` of ``crops``, resized to this teacher's input size."""
        crops = crops.float()  # they may come in the number format of the student's matrix products
        size = (self.input_size,) * 2 if self.input_size else (grid[0] * self.patch, grid[1] * self.patch)
        if tuple(crops.shape[-2:]) != size:
            crops = F.interpolate(crops, size, mode="bicubic", antialias=True)
        return frozen_features(self.backbone, crops * self.factor + self.offset, grid)
