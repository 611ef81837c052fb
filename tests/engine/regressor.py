"""A second task for the trainer, as small as it gets: a linear regression on random tensors, with a schema of its own."""

# ruff: noqa: RUF009 - key() makes a dataclass field
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dinov3.config.kind import Schema
from dinov3.config.run_config import RunBlocks
from dinov3.config.spec import key
from dinov3.distributed.context import rank, world_size
from dinov3.engine.command import Kind
from dinov3.engine.job import Job
from dinov3.engine.module_task import ModuleTask
from dinov3.engine.schedules import RateSchedules, build_rates
from dinov3.engine.task import Counters
from dinov3.runs.start import Start

Batch = tuple[Tensor, Tensor]  # x [N, width], y [N, 1]


@dataclass
class RegressionConfig:
    width: int = key(4, "numbers a sample has", ge=1, fixed=True)
    epoch: int = key(12, "steps in an epoch", ge=1)
    dropout: float = key(0.0, "share of a sample's numbers that a step leaves out", ge=0, le=1)


@dataclass
class RegressorConfig(RunBlocks):
    regression: RegressionConfig = key(RegressionConfig, "the task")


class Numbers:
    """Sample ``i`` is a function of ``i``: a row, and its sum."""

    wait_seconds = 0.0

    def __init__(self, cfg: RegressorConfig, position: int) -> None:
        self.n, self.width, self.position = cfg.train.batch_size_per_gpu, cfg.regression.width, position

    def __next__(self) -> Batch:
        own = range(self.position + rank() * self.n, self.position + (rank() + 1) * self.n)
        self.position += self.n * world_size()
        x = torch.stack([torch.randn(self.width, generator=torch.Generator().manual_seed(i)) for i in own])
        return x, x.sum(1, keepdim=True)

    def stage_ahead(self) -> None: ...

    def names_at(self, positions: Iterable[int]) -> list[str]:
        return [str(i) for i in positions]

    def close(self) -> None: ...


class Regression(ModuleTask[Batch]):
    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        value = nn.functional.mse_loss(self.trained["line"](batch[0]), batch[1])
        return value, {"mse_loss": value}


class RegressionJob(Job[Batch]):
    cfg: RegressorConfig

    def open_data(self) -> str:
        return "random numbers"

    def plan(self) -> RateSchedules:
        return build_rates(self.cfg.optim, self.cfg.regression.epoch)

    def build(self, start: Start, device: torch.device) -> tuple[Regression, list[str]]:
        torch.manual_seed(self.cfg.train.seed)
        line = nn.Sequential(nn.Dropout(self.cfg.regression.dropout), nn.Linear(self.cfg.regression.width, 1))
        return Regression(nn.ModuleDict({"line": line}), device, seed=self.cfg.train.seed), []

    def stream(self, task: Regression, counters: Counters) -> Numbers:
        return Numbers(self.cfg, counters.samples)


def main(argv: list[str] | None = None) -> int:
    return Kind(Schema(RegressorConfig), lambda: RegressionJob).main("regress", "A linear regression.", argv)
