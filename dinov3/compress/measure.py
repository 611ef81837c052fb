"""What a compressed model is worth: size, operations, time, and how far its tokens have moved."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinov3.compress.moments import Batches
from dinov3.models.backbone import Backbone
from dinov3.models.flops import forward_flops
from dinov3.weights.parity import tokens_of

WARM_UP = 3  # calls before the clock starts
LEAST_CALLS, MOST_CALLS, SECONDS = 5, 50, 2.0  # of each; seconds for all together

Run = Callable[[Tensor], Tensor]  # images [B, C, H, W] -> tokens [B, 1 + R + P, D]


@dataclass(frozen=True)
class Latency:
    """Of one call on a batch that is in memory already: no reading, no resizing."""

    milliseconds: float  # median
    fastest: float
    calls: int
    batch: int
    threads: int

    def __str__(self) -> str:
        return f"{self.milliseconds:.1f} ms (median of {self.calls}, batch {self.batch}, {self.threads} threads)"


@torch.no_grad()
def latencies(runs: Sequence[Run], images: Tensor) -> list[Latency]:
    """Time each of ``runs`` on ``images``, warmed up, call by call in turn: what else the machine does slows all alike."""
    for run in runs:
        for _ in range(WARM_UP):
            run(images)
    times: list[list[float]] = [[] for _ in runs]
    began = time.perf_counter()
    while len(times[0]) < LEAST_CALLS or (len(times[0]) < MOST_CALLS and time.perf_counter() - began < SECONDS):
        for run, row in zip(runs, times, strict=True):
            start = time.perf_counter()
            run(images)
            row.append(time.perf_counter() - start)
    threads = torch.get_num_threads()
    return [Latency(1e3 * statistics.median(row), 1e3 * min(row), len(row), len(images), threads) for row in times]


@torch.no_grad()
def block_tokens(backbone: Backbone, images: Tensor) -> list[Tensor]:
    """Tokens [B, T, D] behind each block, before the last norm."""
    model: Any = backbone
    layers = model.get_intermediate_layers(
        images, n=list(range(backbone.n_blocks)), return_class_token=True, return_extra_tokens=True, norm=False
    )
    return [torch.cat([cls[:, None], storage, patches], dim=1) for patches, cls, storage in layers]


@dataclass(frozen=True)
class Closeness:
    """Cosines of tokens with those of the uncompressed model: mean and least over tokens."""

    mean: float
    least: float

    @staticmethod
    def of(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Closeness:
        found = [
            torch.cosine_similarity(a.double(), b.double(), dim=-1).flatten() for a, b in zip(ours, theirs, strict=True)
        ]
        every = torch.cat(found)
        return Closeness(float(every.mean()), float(every.min()))


def closeness(small: Backbone, whole: Backbone, batches: Batches) -> list[Closeness]:
    """Behind each block, then of the normed output."""
    pairs = [(_all_tokens(small, batch), _all_tokens(whole, batch)) for batch in batches]
    return [Closeness.of([a[i] for a, _ in pairs], [b[i] for _, b in pairs]) for i in range(len(pairs[0][0]))]


def _all_tokens(backbone: Backbone, batch: Tensor) -> list[Tensor]:
    return [*block_tokens(backbone, batch), tokens_of(backbone, batch)]


def closeness_of_output(run: Run, whole: Backbone, batches: Batches) -> Closeness:
    """Of the normed output of any program."""
    return Closeness.of([run(batch) for batch in batches], [tokens_of(whole, batch) for batch in batches])


def operations(backbone: Backbone, size: int) -> int:
    """FLOPs of one ``size`` px image, attention included; of a float model."""
    return forward_flops(backbone, size, backbone.in_chans)


def file_bytes(path: Path) -> int:
    """Of a file, and of the data an ONNX graph keeps beside it."""
    beside = path.with_name(path.name + ".data")
    return path.stat().st_size + (beside.stat().st_size if beside.is_file() else 0)
