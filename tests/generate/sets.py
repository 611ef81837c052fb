"""A tiny backbone, a folder of images in several shapes, and what a set of shards of them holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dinov3.data.sources import parse_dataset
from dinov3.features.extract import FeatureExtractor
from dinov3.features.preprocess import Preprocess
from dinov3.generate.extract import Job
from dinov3.generate.sizing import Sizing
from dinov3.models.vit import DinoVisionTransformer

PLAIN = Preprocess((0.5,) * 3, (0.2,) * 3, 16)
SIZING = Sizing(side=64)
# (width, height): of the seven sizes for 64 px, a square, a landscape, a portrait, and one that is too long for any
SHAPES = ((70, 70), (90, 60), (60, 90), (80, 80), (300, 60))
SAMPLE_BYTES = 3 * 1024 + 2048  # of 16 patches of width 32: enough for two in a tar of CAP
CAP = 20480


class Counting(DinoVisionTransformer):
    images = 0

    def encode(self, entries, masks, read=None):  # type: ignore[no-untyped-def]
        Counting.images += len(entries[0])
        return super().encode(entries, masks, read)


def backbone(seed: int = 0) -> DinoVisionTransformer:
    """Width 32, patch 16, four storage tokens, as the released models have."""
    sizes = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2}
    model = Counting(**sizes, n_storage_tokens=4, pos_embed_rope_dtype="fp32")
    model.init_weights(torch.Generator().manual_seed(seed))
    Counting.images = 0
    return model.eval()


def extractor(seed: int = 0, batch_size: int = 4) -> FeatureExtractor:
    return FeatureExtractor(backbone(seed), PLAIN, device="cpu", threads=2, batch_size=batch_size)


def write_images(folder: Path, images: int = 12) -> Path:
    """Images of SHAPES in turn; their names have dots."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(images):
        width, height = SHAPES[number % len(SHAPES)]
        coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        coarse.resize((width, height)).save(folder / f"{number:02d}.v1.png")
    return folder


def job(images: Path, *, seed: int = 0, batch_size: int = 4, sizing: Sizing = SIZING, cap: int = CAP) -> Job:
    return Job.of(extractor(seed, batch_size), parse_dataset(str(images)), sizing, cap)


def files(folder: Path) -> dict[str, bytes]:
    """Everything in a folder but the lock."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"
    }
