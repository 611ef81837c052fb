"""A whitened stem is made of the training images before the first step."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from dinov3.config.derived import largest_global_crop
from dinov3.config.errors import ConfigError
from dinov3.config.schema import Config
from dinov3.data.decode import Reading, read_image
from dinov3.data.errors import BadImage
from dinov3.data.sources import Source
from dinov3.features.preprocess import Preprocess
from dinov3.models.patch_embed import WhitenedStem
from dinov3.models.vit import DinoVisionTransformer
from dinov3.train.ssl_meta_arch import SSLMetaArch

IMAGES = 2000  # at most, evenly spread over the data set


@torch.no_grad()
def fit_stem(model: SSLMetaArch, source: Source) -> list[str]:
    """Make the student's stem, and so the EMA's, of images of ``source``; nothing for other stems. What was done, to be printed.

    Raises ConfigError when there are not more of them than the student is wide.
    """
    backbone = model.student["backbone"]
    if not isinstance(backbone, DinoVisionTransformer) or not isinstance(backbone.patch_embed, WhitenedStem):
        return []
    images = stem_images(model.cfg, source)
    if len(images) <= backbone.embed_dim:
        raise ConfigError(
            "config",
            "student.stem",
            f"whitened, but {len(images)} readable images are not more than the student's {backbone.embed_dim} channels: "
            "train on more, or set it to patch",
        )
    device = next(backbone.parameters()).device
    backbone.patch_embed.fit(images.to(device), torch.Generator().manual_seed(model.cfg.train.seed))
    cast(DinoVisionTransformer, model.model_ema["backbone"]).load_state_dict(backbone.state_dict())
    model.copy_start_to_teachers()
    return [f"stem       filters and matrices made of {len(images):,} images"]


def stem_images(cfg: Config, source: Source) -> Tensor:
    """Images ``[N, C, S, S]`` as the run's own looks see them, whole and not changed; damaged ones are left out."""
    crops, size = cfg.crops, largest_global_crop(cfg)
    prepare = Preprocess(
        tuple(crops.rgb_mean), tuple(crops.rgb_std), cfg.student.patch_size, size, reading=Reading.from_config(cfg)
    )
    found = []
    for index in range(0, len(source), max(1, -(-len(source) // IMAGES))):
        try:
            found.append(prepare(read_image(source, index, prepare.reading)))
        except BadImage:
            continue
    return torch.stack(found) if found else torch.empty(0, cfg.student.in_chans, size, size)
