"""A frozen backbone that says what its features of the global crops are, on the student's grid."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3.config.schema import Config
from dinov3.contracts import Features
from dinov3.features.extract import load
from dinov3.models.token_grid import resample_tokens

Grid = tuple[int, int]


@torch.no_grad()
def frozen_features(backbone: nn.Module, crops: Tensor, grid: Grid) -> dict[str, Tensor]:
    """``cls [N, D]`` and ``patches [N, P, D]`` of ``crops [N, C, H, W]``, patches interpolated to the student's ``grid``."""
    out: Features = backbone(crops, is_training=True)
    return {"cls": out.cls, "patches": resample_tokens(out.patches, out.grid, grid)}


def shrunk(images: Tensor, scale: float) -> Tensor:
    """``images [N, C, H, W]`` at 1 / ``scale`` of their size: a teacher with finer patches then has the student's grid."""
    if scale == 1:
        return images
    return F.interpolate(images, scale_factor=1 / scale, mode="bilinear", antialias=True)


class FeatureTeacher:
    """Any backbone from a file. Owned outside the module tree: no state dict, optimizer, EMA or ``.train()`` sees it."""

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

    def features(self, crops: Tensor, grid: Grid) -> dict[str, Tensor]:
        """``frozen_features`` of ``crops``, resized to this teacher's input size."""
        size = (self.input_size,) * 2 if self.input_size else (grid[0] * self.patch, grid[1] * self.patch)
        if tuple(crops.shape[-2:]) != size:
            crops = F.interpolate(crops, size, mode="bicubic", antialias=True)
        return frozen_features(self.backbone, crops * self.factor + self.offset, grid)
