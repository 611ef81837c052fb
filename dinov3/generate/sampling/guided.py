"""Latents from conditions: the model's velocities under several conditions, put together, from noise to an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dinov3.data.randomness import generator
from dinov3.generate.guidance import chained, independent
from dinov3.generate.samplers import METHODS, Field, Method, sample_times, trajectory
from dinov3.generate.times import shift_of, shifted
from dinov3.models.diffusion.transformer import Conditions, DiffusionTransformer

Mode = Literal["independent", "chained", "full"]
MODES: tuple[Mode, ...] = ("independent", "chained", "full")
# (text is dropped, features are) in each of the branches that a mode asks for, in the order in which it takes them
BRANCHES: dict[Mode, tuple[tuple[bool, bool], ...]] = {
    "independent": ((True, True), (False, True), (True, False)),
    "chained": ((True, True), (True, False), (False, False)),
    "full": ((False, False),),
}


@dataclass(frozen=True)
class Recipe:
    """How an image is made. ValueError for what does not exist."""

    steps: int = 50
    method: Method = "euler"
    mode: Mode = "independent"
    text_scale: float = 3.0
    dino_scale: float = 2.0
    shift_base: float | None = None  # as in training

    def __post_init__(self) -> None:
        for name, value, choices in (("method", self.method, METHODS), ("guidance", self.mode, MODES)):
            if value not in choices:
                raise ValueError(f"{name} {value!r}: choose {', '.join(choices)}")


def noise_of(seeds: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """``[len(seeds), *shape]`` float32: each image's noise depends on its own seed alone."""
    each = [generator(seed, "noise of an image").standard_normal(shape, dtype=np.float32) for seed in seeds]
    return torch.from_numpy(np.stack(each))


def field_of(model: DiffusionTransformer, known: Conditions, recipe: Recipe) -> Field:
    """The guided velocity of ``z [B, C, H, W]`` at one time, all branches in one forward of their number times B rows."""
    branches = BRANCHES[recipe.mode]
    rows = len(known.without_text)
    drops = torch.tensor(branches, device=known.without_text.device).repeat_interleave(rows, 0)  # [branches * B, 2]
    all_known = known.each(lambda part: part.repeat(len(branches), *[1] * (part.ndim - 1)))
    all_known = all_known._replace(
        without_text=all_known.without_text | drops[:, 0], without_features=all_known.without_features | drops[:, 1]
    )

    def field(z: Tensor, t: Tensor) -> Tensor:
        many = z.repeat(len(branches), 1, 1, 1)
        found = model(many, t.float().expand(len(many)), all_known).float()
        if recipe.mode == "full":
            return found
        combine = independent if recipe.mode == "independent" else chained
        first, second, third = found.chunk(len(branches))
        return combine(first, second, third, text_scale=recipe.text_scale, dino_scale=recipe.dino_scale)

    return field


@torch.no_grad()
def latents_from(
    model: DiffusionTransformer, known: Conditions, seeds: Sequence[int], size: tuple[int, int], recipe: Recipe
) -> Tensor:
    """``[B, C, *size]`` normalised latents, one for each row of ``known`` and its seed."""
    device = known.without_text.device
    noise = noise_of(seeds, (model.spec.channels, *size)).to(device)
    times = shifted(sample_times(recipe.steps, device=device), shift_of(noise.shape[1:], recipe.shift_base))
    found = noise
    for z in trajectory(field_of(model, known, recipe), noise, times, recipe.method):
        found = z
    return found
