"""Does an exported file give the tokens of the backbone it was made from?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dinov3.contracts import Features
from dinov3.models.backbone import Backbone
from dinov3.weights.files import WeightsError
from dinov3.weights.fingerprint import procedural_image

# The largest relative distance of one token, fp32 on a CPU. Two programs that compute the same differ by 1e-6 in small
# models and a few times that after 40 blocks; a swapped tensor or another rotation by 1e-2 and more.
TOLERANCE = 1e-5
GRIDS = ((1, 4, 3), (2, 2, 5), (3, 6, 6))  # (images, rows, cols) of tokens


@dataclass(frozen=True)
class Parity:
    """The outcome of a comparison."""

    worst: float
    sizes: list[str]  # "1 x 64x48"

    def __str__(self) -> str:
        return (
            f"tokens equal to {self.worst:.1e} (relative, worst token; at most {TOLERANCE:g}) "
            f"on {', '.join(self.sizes)} px, fp32 on the CPU"
        )


def images_for(backbone: Backbone) -> list[Tensor]:
    """Fixed pictures of three sizes and batch sizes."""
    side, channels = backbone.stride, backbone.in_chans
    return [procedural_image(channels, r * side, c * side).repeat(n, 1, 1, 1) for n, r, c in GRIDS]


@torch.no_grad()
def tokens_of(backbone: Backbone, images: Tensor) -> Tensor:
    """[N, 1 + R + P, D]: class token, storage tokens, patches."""
    out = backbone(images, is_training=True)
    assert isinstance(out, Features)
    return torch.cat([out.cls[:, None], out.storage, out.patches], dim=1)


def worst_token(found: Tensor, expected: Tensor) -> float:
    """Largest relative L2 distance of one token; infinite when shapes differ or a number is not finite."""
    if found.shape != expected.shape or not bool(found.isfinite().all()):
        return float("inf")
    return float(((found - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(1e-12)).max())


@torch.no_grad()
def compare(backbone: Backbone, other: Callable[[Tensor], Tensor], what: str) -> Parity:
    """Run both on the fixed pictures. ``other`` gives tokens as ``tokens_of`` does. WeightsError when they differ."""
    worst = 0.0
    sizes: list[str] = []
    for images in images_for(backbone):
        distance = worst_token(other(images), tokens_of(backbone, images))
        size = f"{images.shape[0]} x {images.shape[2]}x{images.shape[3]}"
        if not distance <= TOLERANCE:
            raise WeightsError(
                f"{what} does not give the backbone's tokens: on {size} px the worst one is off by {distance:.1e} "
                f"(relative, at most {TOLERANCE:g}); nothing was written"
            )
        worst, sizes = max(worst, distance), [*sizes, size]
    return Parity(worst, sizes)
