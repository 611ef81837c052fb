"""The dense prediction transformer's decoder (Ranftl et al. 2021, DPT): four layers reassembled as maps of four sizes, and fused."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3.dense.windows import resized
from dinov3.models.backbone import Backbone
from dinov3.models.initialization import init_convolutions
from dinov3.models.vit import DinoVisionTransformer

LAYERS = 4
Level = tuple[Tensor, Tensor]  # patches [N, D, h, w] and the class token [N, D] of one layer


def layers_of(blocks: int) -> list[int]:
    """The four layers that are read: those at each quarter of the depth, the last one among them; 2, 5, 8, 11 of 12."""
    return [math.ceil(blocks * quarter / LAYERS) - 1 for quarter in range(1, LAYERS + 1)]


def levels_of(backbone: Backbone, images: Tensor) -> list[Level]:
    """Of a vision transformer and images ``[N, C, H, W]`` of whole patches; each layer through the last norm."""
    assert isinstance(backbone, DinoVisionTransformer)
    wanted = layers_of(backbone.n_blocks)
    indices = sorted(set(wanted))  # a backbone of fewer than four blocks is read twice in some
    found = backbone.get_intermediate_layers(images, n=indices, reshape=True, return_class_token=True)
    each: list[Level] = [(patches, cls) for patches, cls in found]
    return [each[indices.index(layer)] for layer in wanted]


class Reassemble(nn.Module):
    """One layer as a map: the class token is read into every patch, then ``2 ** power`` times as fine a side (section 3.2)."""

    def __init__(self, channels: int, own: int, width: int, power: int) -> None:
        super().__init__()
        self.read = nn.Linear(2 * channels, channels)
        self.project = nn.Conv2d(channels, own, kernel_size=1)
        self.resample: nn.Module = nn.Identity()
        if power > 0:
            self.resample = nn.ConvTranspose2d(own, own, kernel_size=1 << power, stride=1 << power)
        elif power < 0:
            self.resample = nn.Conv2d(own, own, kernel_size=3, stride=1 << -power, padding=1)
        self.out = nn.Conv2d(own, width, kernel_size=3, padding=1, bias=False)

    def forward(self, patches: Tensor, cls: Tensor) -> Tensor:
        rows = patches.permute(0, 2, 3, 1)  # [N, h, w, D]
        both = torch.cat([rows, cls[:, None, None].expand_as(rows)], dim=-1)
        x = F.gelu(self.read(both)).permute(0, 3, 1, 2)
        found: Tensor = self.out(self.resample(self.project(x)))
        return found


class Residual(nn.Module):
    """x + two 3x3 convolutions of it, each behind a ReLU (RefineNet's unit, without batch norm)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, kernel_size=3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x))))


class Fuse(nn.Module):
    """What comes from below, plus this layer's map, refined; then resized (section 3.2, fusion)."""

    def __init__(self, width: int, *, lowest: bool) -> None:
        super().__init__()
        self.skip = None if lowest else Residual(width)
        self.refine, self.out = Residual(width), nn.Conv2d(width, width, kernel_size=1)

    def forward(self, below: Tensor, own: Tensor | None, size: tuple[int, int]) -> Tensor:
        x = below if own is None or self.skip is None else below + self.skip(own)
        return resized(self.out(self.refine(x)), size)


class Dpt(nn.Module):
    """``LAYERS`` levels on a grid of ``[h, w]`` to ``outputs`` channels at ``[8h, 8w]``: half the side of an image of 16 px
    patches, the whole of one of 8 px patches.

    Finer layers have fewer channels of their own before they are all ``width``, as in DPT.
    """

    def __init__(self, channels: int, outputs: int, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        own = [max(8, channels // part) for part in (8, 4, 2, 1)]
        powers = (2, 1, 0, -1)
        self.reassemble = nn.ModuleList(Reassemble(channels, n, width, p) for n, p in zip(own, powers, strict=True))
        self.fuse = nn.ModuleList(Fuse(width, lowest=level == LAYERS - 1) for level in range(LAYERS))
        self.smooth = nn.Conv2d(width, width, kernel_size=3, padding=1)
        self.dropout = nn.Dropout2d(dropout)
        self.outputs = nn.Conv2d(width, outputs, kernel_size=1)

    def init_weights(self, generator: torch.Generator) -> None:
        """``generator`` lives on the CPU, so that every device begins with the same head."""
        init_convolutions(self, generator)

    def forward(self, levels: Sequence[Level]) -> Tensor:
        """``[N, outputs, 8h, 8w]``. ValueError unless there are LAYERS levels."""
        maps = [part(*level) for part, level in zip(self.reassemble, levels, strict=True)]
        sizes = [(one.shape[2], one.shape[3]) for one in maps]
        sizes.insert(0, (2 * sizes[0][0], 2 * sizes[0][1]))
        x = self.fuse[-1](maps[-1], None, sizes[LAYERS - 1])
        for level in range(LAYERS - 2, -1, -1):
            x = self.fuse[level](x, maps[level], sizes[level])
        found: Tensor = self.outputs(self.dropout(F.relu(self.smooth(x))))
        return found
