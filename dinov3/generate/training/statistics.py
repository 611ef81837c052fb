"""Mean and variance of every channel of class tokens, patches and latents, each apart: computed once, kept beside the shards.

Class tokens and patch features of one backbone have different distributions, and both differ from the latents'.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dinov3.generate.training.shard_set import ShardSet
from dinov3.system.bars import Bar
from dinov3.system.files import write_json
from dinov3.system.json_file import JsonError, read_object

log = logging.getLogger(__name__)

FILE, VERSION = "statistics.json", 1
SAMPLES = 10_000  # read at most, evenly over the set
PARTS = ("cls", "patches", "latents")
LEAST = 1e-6  # a channel that never changes is not divided by nothing
Moments = dict[str, dict[str, list[float]]]  # part -> mean, var


class _Sum:
    """Mean and variance of rows that come in pieces (Chan, Golub and LeVeque 1983), in float64."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, np.zeros(1), np.zeros(1)

    def add(self, rows: NDArray[Any]) -> None:
        """``[N, D]``."""
        values = rows.astype(np.float64)
        mean, n = values.mean(0), len(values)
        total, delta = self.count + n, mean - self.mean
        self.squares = self.squares + ((values - mean) ** 2).sum(0) + delta**2 * self.count * n / total
        self.mean = self.mean + delta * n / total
        self.count = total

    def moments(self) -> dict[str, list[float]]:
        each = {"mean": self.mean, "var": self.squares / self.count}
        return {name: values.astype(np.float32).tolist() for name, values in each.items()}


def computed(shards: ShardSet, *, quiet: bool = False) -> Moments:
    """From at most SAMPLES samples. GenerateError for a shard that cannot be read."""
    sums = {part: _Sum() for part in PARTS}
    chosen = shards.spread(SAMPLES)
    with Bar(len(chosen), about="statistics", unit="samples", shown=not quiet) as bar:
        for bucket, row in chosen:
            sample = shards.read(bucket, row)
            assert sample.latent is not None
            sums["cls"].add(sample.cls[None])
            sums["patches"].add(sample.patches)
            sums["latents"].add(sample.latent.reshape(len(sample.latent), -1).T)
            bar.update()
    return {part: each.moments() for part, each in sums.items()}


def statistics_of(shards: ShardSet, *, quiet: bool = False) -> Moments:
    """Those beside the shards when they are of these shards and this version, else computed and, if possible, kept."""
    path, identity = shards.folder / FILE, shards.identity()
    if (kept := _kept(path, identity)) is not None:
        return kept
    moments = computed(shards, quiet=quiet)
    try:
        write_json(path, {"version": VERSION, "of": identity, "moments": moments}, indent=None)
    except OSError as error:
        log.warning("%s; statistics are computed again at every start", error)
    return moments


def _kept(path: Path, identity: str) -> Moments | None:
    try:
        moments = {part: {"mean": [float], "var": [float]} for part in PARTS}
        content = read_object(path, {"version": int, "of": str, "moments": moments})
    except (OSError, JsonError):
        return None
    if (content["version"], content["of"]) != (VERSION, identity):
        return None
    return {part: {k: [*map(float, content["moments"][part][k])] for k in ("mean", "var")} for part in PARTS}


class Normaliser(nn.Module):
    """Channels with mean 0 and variance 1, and back. A part of the model: its buffers are saved with the weights."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        """``sizes``: channels of each part."""
        super().__init__()
        for part, size in sizes.items():
            self.register_buffer(f"{part}_mean", torch.zeros(size))
            self.register_buffer(f"{part}_std", torch.ones(size))

    @classmethod
    def of(cls, moments: Moments) -> Normaliser:
        """Of the statistics of a set."""
        made = cls({part: len(values["mean"]) for part, values in moments.items()})
        for part, values in moments.items():
            made.get_buffer(f"{part}_mean").copy_(torch.tensor(values["mean"]))
            made.get_buffer(f"{part}_std").copy_(torch.tensor(values["var"]).clamp(min=LEAST).sqrt())
        return made

    def forward(self, part: str, values: Tensor) -> Tensor:
        """``[..., D]``, latents ``[B, D, h, w]``, as float32."""
        mean, std = self._like(part, values)
        return (values.float() - mean) / std

    def back(self, part: str, values: Tensor) -> Tensor:
        """What was normalised."""
        mean, std = self._like(part, values)
        return values * std + mean

    def _like(self, part: str, values: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self.get_buffer(f"{part}_mean"), self.get_buffer(f"{part}_std")
        return (mean[:, None, None], std[:, None, None]) if part == "latents" and values.ndim == 4 else (mean, std)
