"""One training batch, all of one bucket, with everything that is drawn for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinov3.data.randomness import generator
from dinov3.distributed.transfer import send
from dinov3.generate.shards import Sample


class Draws(NamedTuple):
    """What is random about a training sample: a function of (seed, position in the stream)."""

    noise: NDArray[np.float32]  # [C, h, w]
    time: float  # standard normal
    category: float  # uniform


def drawn(seed: int, position: int, shape: tuple[int, ...]) -> Draws:
    """For the sample at ``position`` of the stream."""
    random = generator(seed, "diffusion", position)
    time, category = float(random.standard_normal()), float(random.random())
    return Draws(random.standard_normal(shape, dtype=np.float32), time, category)


@dataclass(frozen=True)
class DitBatch:
    """As stored, fp16; normalised where the model is."""

    latents: Tensor  # [B, C, h, w]
    cls: Tensor  # [B, D]
    patches: Tensor  # [B, N, D]
    grid: tuple[int, int]  # of the patches
    text: Tensor  # [B, L, W]
    text_mask: Tensor  # [B, L] bool
    noise: Tensor  # [B, C, h, w] float32
    times: Tensor  # [B] float32, standard normal
    categories: Tensor  # [B] float64, uniform
    positions: Tensor  # [B] int64, of the stream
    keys: tuple[str, ...]  # of the samples

    @classmethod
    def of(cls, samples: Sequence[Sample], draws: Sequence[Draws], positions: Sequence[int]) -> DitBatch:
        """Samples of one bucket with what was drawn for each."""

        def stacked(arrays: Sequence[Any]) -> Tensor:
            return torch.from_numpy(np.stack(arrays))

        rows, cols = samples[0].facts["grid"]
        return cls(
            latents=stacked([sample.latent for sample in samples]),
            cls=stacked([sample.cls for sample in samples]),
            patches=stacked([sample.patches for sample in samples]),
            grid=(int(rows), int(cols)),
            text=stacked([sample.text for sample in samples]),
            text_mask=stacked([sample.text_mask for sample in samples]).bool(),
            noise=stacked([draw.noise for draw in draws]),
            times=torch.tensor([draw.time for draw in draws]),
            categories=torch.tensor([draw.category for draw in draws], dtype=torch.float64),
            positions=torch.tensor(positions, dtype=torch.int64),
            keys=tuple(sample.key for sample in samples),
        )

    def to(self, device: torch.device) -> DitBatch:
        """Its tensors there; to a GPU without waiting for the copies."""
        if device.type == "cpu":
            return self
        moved: dict[str, Any] = {
            f.name: send(value, device) for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)
