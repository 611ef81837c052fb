"""What the looks of a diffusion transformer share: some samples, and what the model makes of them at one step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter

import torch
from torch import Tensor

from dinov3.config.dit import DitConfig
from dinov3.data.randomness import digest
from dinov3.generate.buckets import Bucket
from dinov3.generate.inputs.base import LatentCoder
from dinov3.generate.sampling.guided import Recipe, latents_from
from dinov3.generate.training.batch import DitBatch, drawn
from dinov3.generate.training.shard_set import ShardSet
from dinov3.generate.training.statistics import Normaliser
from dinov3.models.diffusion.transformer import Conditions, DiffusionTransformer
from dinov3.runs.folder import RunFolder

log = logging.getLogger(__name__)

ROWS = 8  # images that go through the model at once
# (text is dropped, features are)
CONDITIONS = {"recon": (False, False), "swap": (False, False), "text_only": (False, True), "uncond": (True, True)}


def chosen(shards: ShardSet, samples: int) -> dict[int, list[int]]:
    """Bucket -> rows: ``samples`` of the set, evenly, and of each bucket at least two where it has them (to swap)."""
    found: dict[int, list[int]] = {bucket: [] for bucket in range(len(shards.buckets))}
    for bucket, row in shards.spread(samples):
        found[bucket].append(row)
    for bucket, rows in found.items():
        more = [row for row in range(min(shards.counts[bucket], 2)) if row not in rows]
        rows.extend(more[: max(0, 2 - len(rows))])
    return {bucket: sorted(rows) for bucket, rows in found.items()}


@dataclass
class Made:
    """Normalised latents ``[n, C, h, w]`` of one bucket: the real ones, the donors', and those made under each condition."""

    bucket: Bucket
    real: Tensor
    donor: Tensor
    by: dict[str, Tensor]


@dataclass
class DitScene:
    """The averaged weights after ``step`` steps. Everything is computed when first asked for, and once."""

    cfg: DitConfig
    run: RunFolder
    step: int
    model: DiffusionTransformer
    normaliser: Normaliser
    shards: ShardSet
    device: torch.device
    coder: Callable[[], LatentCoder | None]  # to see latents; None where they cannot be decoded
    features: Callable[[Tensor], Tensor] | None = None  # [N, 3, H, W] in [0, 1] -> [N, D], for the Fréchet distance

    @cached_property
    def made(self) -> list[Made]:
        """One entry a bucket."""
        rows = chosen(self.shards, self.cfg.validation.samples)
        return [self._bucket(bucket, numbers) for bucket, numbers in rows.items() if numbers]

    def _bucket(self, bucket: int, rows: Sequence[int]) -> Made:
        samples = [self.shards.read(bucket, row) for row in rows]
        seeds = [
            int.from_bytes(digest(self.cfg.train.seed, "validation", bucket, row, size=8), "little") >> 1
            for row in rows
        ]
        shape = (self.shards.form.channels, *self.shards.bucket_of(bucket).latent())
        batch = DitBatch.of(samples, [drawn(seed, 0, shape) for seed in seeds], seeds).to(self.device)
        real = self.normaliser("latents", batch.latents)
        own = Conditions(
            text=batch.text.float(),
            text_mask=batch.text_mask,
            cls=self.normaliser("cls", batch.cls),
            patches=self.normaliser("patches", batch.patches),
            grid=batch.grid,
            without_text=torch.zeros(len(rows), dtype=torch.bool, device=self.device),
            without_features=torch.zeros(len(rows), dtype=torch.bool, device=self.device),
        )
        by = {name: self._sampled(self._asked(own, name), seeds, (shape[1], shape[2])) for name in CONDITIONS}
        return Made(self.shards.bucket_of(bucket), real, real.roll(-1, 0), by)

    def _asked(self, own: Conditions, name: str) -> Conditions:
        without_text, without_features = CONDITIONS[name]
        if name == "swap":  # the next image's class token and patches
            own = own._replace(cls=own.cls.roll(-1, 0), patches=own.patches.roll(-1, 0))
        return own._replace(
            without_text=own.without_text | without_text, without_features=own.without_features | without_features
        )

    def _sampled(self, known: Conditions, seeds: list[int], size: tuple[int, int]) -> Tensor:
        recipe = Recipe(self.cfg.validation.steps, mode="full", shift_base=self.cfg.flow.shift_base)
        parts = []
        for first in range(0, len(seeds), ROWS):
            rows = slice(first, first + ROWS)
            parts.append(latents_from(self.model, known.each(itemgetter(rows)), seeds[rows], size, recipe))
        return torch.cat(parts)

    def images(self, latents: Tensor) -> Tensor | None:
        """``[n, 3, H, W]`` in [0, 1] on the CPU; None where the latents cannot be decoded."""
        coder = self.coder()
        return None if coder is None else coder.decode(self.normaliser.back("latents", latents).cpu())
