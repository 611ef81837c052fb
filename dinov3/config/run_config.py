"""What every kind of run has in its config, whatever it trains."""

from __future__ import annotations

from typing import Protocol

from dinov3.config.blocks_data import DataConfig
from dinov3.config.blocks_train import (
    CheckpointingConfig,
    LoggingConfig,
    LoopConfig,
    NanConfig,
    OptimConfig,
    ResumeConfig,
    StartConfig,
    WandbConfig,
)


class RunConfig(Protocol):
    """A root of a schema whose runs the trainer can train: any dataclass with these blocks."""

    @property
    def train(self) -> LoopConfig: ...
    @property
    def optim(self) -> OptimConfig: ...
    @property
    def checkpointing(self) -> CheckpointingConfig: ...
    @property
    def logging(self) -> LoggingConfig: ...
    @property
    def wandb(self) -> WandbConfig: ...
    @property
    def nan(self) -> NanConfig: ...
    @property
    def resume(self) -> ResumeConfig: ...
    @property
    def data(self) -> DataConfig: ...
    @property
    def start(self) -> StartConfig: ...
