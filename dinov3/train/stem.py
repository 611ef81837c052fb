"""A whitened stem is made of the training images, and of crops of them, before the first step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from dinov3.config.derived import largest_global_crop
from dinov3.config.errors import ConfigError
from dinov3.config.schema import Config
from dinov3.data.decode import Reading, read_image
from dinov3.data.errors import BadImage
from dinov3.data.loader import CropLoader
from dinov3.data.sources import Source
from dinov3.distributed import context
from dinov3.features.preprocess import Preprocess
from dinov3.models.patch_embed import WhitenedStem
from dinov3.models.vit import DinoVisionTransformer
from dinov3.system.bars import Bar
from dinov3.system.cores import usable_workers
from dinov3.system.errors import first_line
from dinov3.train.ssl_meta_arch import SSLMetaArch

IMAGES = 2000  # at most, evenly spread over the data set
PAIRS = 8000  # two crops each of the first samples of the stream; k-NN of CIFAR-10: 53.3 % with 2,000, 54.4 % with 4,000, 56.6 %


@torch.no_grad()
def fit_stem(model: SSLMetaArch, source: Source) -> list[str]:
    """Make the student's stem, and so the EMA's, of images of ``source``; nothing for other stems. What was done, to be printed.

    Raises ConfigError when there are not more of them than the student is wide, or when they are all of one colour.
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
    generator = torch.Generator().manual_seed(model.cfg.train.seed)
    try:
        backbone.patch_embed.fit(images.to(device), pairs_of_crops(model.cfg, source, device), generator)
    except torch.linalg.LinAlgError as error:  # of images without any detail
        text = f"whitened, but these images do not differ enough ({first_line(error)}): set it to patch"
        raise ConfigError("config", "student.stem", text) from error
    cast(DinoVisionTransformer, model.model_ema["backbone"]).load_state_dict(backbone.state_dict())
    model.copy_start_to_teachers()
    return [f"stem       filters and matrices made of {len(images):,} images and {PAIRS:,} pairs of crops"]


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


def pairs_of_crops(cfg: Config, source: Source, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """PAIRS pairs of global crops ``[B, C, S, S]``, augmented as in training: those of the first samples of the stream, on
    every process the same.

    What cannot be read there is replaced, and told when training comes to it.
    """
    plain = replace(cfg.crops, local_crops_number=0, gram_teacher_crops_size=None)
    # One more worker than in training, for the model waits: 18 s instead of 32 for the demo's crops, on two cores.
    workers = usable_workers(cfg.train.num_workers and cfg.train.num_workers + 1)
    one = replace(cfg.train, gradient_accumulation_steps=1, num_workers=workers)
    with (
        CropLoader(
            replace(cfg, crops=plain, train=one),
            source,
            position=0,
            rank=0,
            world_size=1,
            device=device,
            dtype=torch.float32,
            on_bad=lambda _: None,
        ) as loader,
        Bar(PAIRS, about="crops for the stem", unit="images", shown=context.is_main()) as bar,
    ):
        for _ in range(-(-PAIRS // cfg.train.batch_size_per_gpu)):
            first, second = next(loader).collated_global_crops.chunk(2)
            bar.update(len(first))
            yield first, second
