"""What a pretraining step has to compute, whatever it takes to compute it."""

from __future__ import annotations

import dataclasses

import torch
from torch.utils.flop_counter import FlopCounterMode

from dinov3.config.derived import crop_sizes
from dinov3.config.schema import Config
from dinov3.contracts import GLOBAL_CROPS
from dinov3.data.masking import mask_counts
from dinov3.train.ssl_meta_arch import SSLMetaArch

IMAGES = 16  # counted at once: drop path keeps whole images


def flops_an_image(cfg: Config) -> float:
    """2 x multiply-adds of student (forward and backward), EMA teacher and their heads, for one image of the data set.

    Mean over the resolutions of a run, by their shares. Matrix products and attention; activations that are computed
    again are not counted twice, nor are other teachers, nor what losses do. Nothing is allocated.
    """
    alone = dataclasses.replace(cfg, gram=dataclasses.replace(cfg.gram, use_loss=False))
    alone = dataclasses.replace(alone, da3=dataclasses.replace(cfg.da3, enabled=False))
    off = dataclasses.replace(cfg.feature_distillation, enabled=False)
    model = SSLMetaArch(dataclasses.replace(alone, feature_distillation=off), "meta")
    return sum(sizes.share * _at(model, cfg, sizes.global_size, sizes.local_size) for sizes in crop_sizes(cfg))


def _at(model: SSLMetaArch, cfg: Config, large: int, small: int) -> float:
    crops, cells = GLOBAL_CROPS * IMAGES, (large // cfg.student.patch_size) ** 2
    low, high = cfg.ibot.mask_ratio_min_max
    masked = int(mask_counts(crops, cells, cfg.ibot.mask_sample_probability, (low, high)).sum())
    channels, locals_ = cfg.student.in_chans, cfg.crops.local_crops_number * IMAGES
    images = [torch.empty(crops, channels, large, large, device="meta")]
    images += [torch.empty(locals_, channels, small, small, device="meta")] if locals_ else []
    rows = torch.empty(masked, model.embed_dim, device="meta")
    with FlopCounterMode(display=False) as counter:
        with torch.no_grad():
            seen = model.teacher["backbone"](images[0], is_training=True)
            model.teacher["dino_head"](seen.cls)
            model.teacher["ibot_head"](torch.empty(masked, seen.cls.shape[-1], device="meta"))
        features = model.student["backbone"](images, [None] * len(images), is_training=True)
        results = [model.student["dino_head"](torch.cat([f.cls for f in features]))]
        results += [features[0].patches, model.student["ibot_head"](rows.requires_grad_())]
        torch.stack([result.sum() for result in results]).sum().backward()
    return counter.get_total_flops() / IMAGES
