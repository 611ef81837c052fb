"""The anchor-free head: at every place of every level a class, a box and how central the place is (Tian et al. 2019, FCOS)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dinov3.detect.pyramid import Pyramid, places_of, strides_of
from dinov3.models.initialization import init_convolutions

PRIOR = 0.01  # probability that a new head gives to every class at every place (Lin et al. 2017)
MOST_GROUPS = 32  # of group norm
LARGEST_EXPONENT = 8.0  # of a box side in strides: e^8 strides are beyond any image, and exp stays finite


class Said(NamedTuple):
    """What the head says of a batch, P places of all levels together."""

    classes: Tensor  # [N, P, K] logits
    sides: Tensor  # [N, P, 4] px from the place to the left, top, right and bottom of its box
    centres: Tensor  # [N, P] logits of the centerness
    places: Tensor  # [P, 2] px (x, y)
    levels: list[int]  # places of each level


class DetectHead(nn.Module):
    """Pyramid and two towers that all levels share; a factor of box sides each level has for itself."""

    def __init__(
        self, channels: int, classes: int, *, patch: int, upscale: int, levels: int, width: int, depth: int
    ) -> None:
        super().__init__()
        self.strides = strides_of(patch, upscale, levels)
        self.pyramid = Pyramid(channels, width, upscale, levels)
        self.class_tower, self.box_tower = _tower(width, depth), _tower(width, depth)
        self.classes = nn.Conv2d(width, classes, kernel_size=3, padding=1)
        self.sides = nn.Conv2d(width, 4, kernel_size=3, padding=1)
        self.centre = nn.Conv2d(width, 1, kernel_size=3, padding=1)
        self.scales = nn.Parameter(torch.ones(levels))

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """``generator`` lives on the CPU. Towers as FCOS begins, the pyramid as torch's own layers do."""
        init_convolutions(self, generator)
        for part in (self.class_tower, self.box_tower, self.classes, self.sides, self.centre):
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.normal_(module.weight, std=0.01, generator=generator)
                    assert module.bias is not None
                    nn.init.zeros_(module.bias)
        assert self.classes.bias is not None
        nn.init.constant_(self.classes.bias, -math.log((1 - PRIOR) / PRIOR))
        nn.init.ones_(self.scales)

    def forward(self, patches: Tensor) -> Said:
        """Of the backbone's last map ``[N, D, h, w]``."""
        maps = self.pyramid(patches)
        classes, sides, centres = [], [], []
        for level, (one, stride) in enumerate(zip(maps, self.strides, strict=True)):
            about_class, about_box = self.class_tower(one), self.box_tower(one)
            classes.append(_rows(self.classes(about_class)))
            exponent = (self.scales[level] * self.sides(about_box).float()).clamp(max=LARGEST_EXPONENT)
            sides.append(_rows(exponent.exp() * stride))
            centres.append(_rows(self.centre(about_box))[..., 0])
        grids = [(one.shape[2], one.shape[3]) for one in maps]
        return Said(
            torch.cat(classes, 1),
            torch.cat(sides, 1),
            torch.cat(centres, 1),
            places_of(grids, self.strides, patches.device),
            [rows * columns for rows, columns in grids],
        )


def _rows(maps: Tensor) -> Tensor:
    """``[N, C, h, w]`` as ``[N, h*w, C]``."""
    return maps.flatten(2).mT


def _tower(width: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        groups = math.gcd(MOST_GROUPS, width)
        layers += [nn.Conv2d(width, width, kernel_size=3, padding=1), nn.GroupNorm(groups, width), nn.ReLU()]
    return nn.Sequential(*layers)


def corners_of(places: Tensor, sides: Tensor) -> Tensor:
    """Boxes ``[..., P, 4]`` (left, top, right, bottom) of sides ``[..., P, 4]`` at places ``[P, 2]``."""
    return torch.cat([places - sides[..., :2], places + sides[..., 2:]], dim=-1)
