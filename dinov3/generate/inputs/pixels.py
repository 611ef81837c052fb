"""Mean colours in place of a VAE: latents that need no model, for demonstrations and tests."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from dinov3.generate.buckets import LATENT


class PooledPixels:
    """Means of red, green and blue over 8 x 8 px, in [-1, 1]."""

    name = "pixels"
    channels = 3

    def encode(self, image: Tensor) -> Tensor:
        """``[3, H, W]`` in [0, 1] -> ``[3, H / 8, W / 8]``."""
        return F.avg_pool2d(image[None], LATENT)[0] * 2 - 1

    def decode(self, latents: Tensor) -> Tensor:
        """Smooth between the means."""
        grown = F.interpolate(latents.float(), scale_factor=LATENT, mode="bicubic", align_corners=False)
        return ((grown + 1) / 2).clamp(0, 1)
