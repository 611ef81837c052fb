"""Latents of a variational autoencoder of Hugging Face's diffusers."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from dinov3.data.torchvision_compat import prepare_torchvision
from dinov3.features.cache import weights_digest
from dinov3.generate.buckets import LATENT
from dinov3.generate.errors import GenerateError


class VaeLatents:
    """The mean of the posterior, shifted and scaled as the model's config says. Raises GenerateError unless it shrinks by 8."""

    def __init__(self, vae: Any) -> None:
        self._vae = vae.eval()
        config = vae.config
        shrinks = 2 ** (len(config.block_out_channels) - 1)
        if shrinks != LATENT:
            raise GenerateError(f"--latents vae: this one shrinks by {shrinks}, the transformer's tokens need {LATENT}")
        self.channels = int(config.latent_channels)
        self._scale, self._shift = float(config.scaling_factor or 1), float(getattr(config, "shift_factor", None) or 0)
        self.name = f"vae:{weights_digest(vae)[:16]}"

    @classmethod
    def load(cls, folder: str) -> VaeLatents:
        """From a folder, or a name in the hub's cache. GenerateError when it cannot be read, or diffusers is missing."""
        prepare_torchvision()
        try:
            diffusers: Any = import_module("diffusers")
        except ImportError as error:
            raise GenerateError("--latents vae needs diffusers: pip install 'dinov3[vae]'") from error
        try:
            return cls(diffusers.AutoencoderKL.from_pretrained(folder))
        except (OSError, ValueError) as error:
            raise GenerateError(f"--latents vae:{folder}: {str(error).splitlines()[0]}") from error

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """``[3, H, W]`` in [0, 1] -> ``[C, H / 8, W / 8]``."""
        found = self._vae.encode(image[None].to(self._vae.device) * 2 - 1).latent_dist.mode()[0]
        return ((found - self._shift) * self._scale).float().cpu()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """``[B, C, h, w]`` -> ``[B, 3, 8 h, 8 w]`` in [0, 1]."""
        found = self._vae.decode(latents.to(self._vae.device) / self._scale + self._shift).sample
        return ((found.float().cpu() + 1) / 2).clamp(0, 1)
