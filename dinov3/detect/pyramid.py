"""The simple feature pyramid: every level from the last map of a plain backbone (Li et al. 2022, ViTDet, figure 2 left)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Size = tuple[int, int]  # (rows, columns)


class ChannelNorm(nn.LayerNorm):
    """Layer norm of each place's channels of ``[N, C, h, w]``: nothing depends on how a batch is shared out."""

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = super().forward(x.permute(0, 2, 3, 1))
        return normed.permute(0, 3, 1, 2)


class Pyramid(nn.Module):
    """``[N, D, h, w]`` to ``levels`` maps ``[N, width, h', w']``, the first ``2 ** upscale`` times as fine a side, each next
    one half as fine.

    Finer levels by transposed convolutions, coarser ones by max pooling; then a 1x1 and a 3x3 convolution, each with a norm.
    Sides that are odd keep their last row and column.
    """

    def __init__(self, channels: int, width: int, upscale: int, levels: int) -> None:
        super().__init__()
        self.stages, self.laterals = nn.ModuleList(), nn.ModuleList()
        for level in range(levels):
            power = upscale - level
            layers: list[nn.Module] = []
            for step in range(power):
                layers.append(nn.ConvTranspose2d(channels >> step, channels >> (step + 1), kernel_size=2, stride=2))
                if step + 1 < power:
                    layers += [ChannelNorm(channels >> (step + 1)), nn.GELU()]
            if power < 0:
                layers.append(nn.MaxPool2d(1 << -power, ceil_mode=True))
            self.stages.append(nn.Sequential(*layers))
            self.laterals.append(
                nn.Sequential(
                    nn.Conv2d(channels >> max(power, 0), width, kernel_size=1, bias=False),
                    ChannelNorm(width),
                    nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False),
                    ChannelNorm(width),
                )
            )

    def forward(self, patches: Tensor) -> list[Tensor]:
        return [lateral(stage(patches)) for stage, lateral in zip(self.stages, self.laterals, strict=True)]


def strides_of(patch: int, upscale: int, levels: int) -> list[float]:
    """Pixels from one place of each level to the next."""
    return [patch * 2.0 ** (level - upscale) for level in range(levels)]


def places_of(grids: list[Size], strides: list[float], device: torch.device) -> Tensor:
    """Centres ``[P, 2]`` (x, y) px of all places, level by level, row by row."""
    found = []
    for (rows, columns), stride in zip(grids, strides, strict=True):
        y, x = ((torch.arange(n, device=device) + 0.5) * stride for n in (rows, columns))
        found.append(torch.stack([x.expand(rows, columns), y[:, None].expand(rows, columns)], dim=-1).flatten(0, 1))
    return torch.cat(found)
