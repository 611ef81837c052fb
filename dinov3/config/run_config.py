"""What every kind of run has in its config, whatever it trains."""

# ruff: noqa: RUF009 - key() makes a dataclass field
from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from dinov3.config.blocks.data import DataConfig
from dinov3.config.blocks.train import (
    BeginConfig,
    CheckpointingConfig,
    LoggingConfig,
    LoopConfig,
    NanConfig,
    ResumeConfig,
    TaskOptimConfig,
    WandbConfig,
)
from dinov3.config.spec import key


class AdamWConfig(Protocol):
    """What the optimizer and the trainer read of ``optim``, in every kind of run."""

    @property
    def lr(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def adamw_beta1(self) -> float: ...
    @property
    def adamw_beta2(self) -> float: ...
    @property
    def clip_grad(self) -> float: ...


class RunConfig(Protocol):
    """A root of a schema whose runs the trainer can train: any dataclass with these blocks."""

    @property
    def train(self) -> LoopConfig: ...
    @property
    def optim(self) -> AdamWConfig: ...
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
    def start(self) -> BeginConfig: ...


@dataclass
class RunBlocks:
    """These blocks, for the root of a schema to inherit."""

    train: LoopConfig = key(LoopConfig, "batch, run folder, seed, length")
    optim: TaskOptimConfig = key(TaskOptimConfig, "length of training, optimizer, schedules")
    checkpointing: CheckpointingConfig = key(CheckpointingConfig, "when checkpoints are written and dropped")
    logging: LoggingConfig = key(LoggingConfig, "where metrics go beside metrics.jsonl")
    wandb: WandbConfig = key(WandbConfig, "Weights & Biases")
    nan: NanConfig = key(NanConfig, "what to do about losses and gradients that are not finite")
    resume: ResumeConfig = key(ResumeConfig, "continuing a run")
    data: DataConfig = key(DataConfig, "unreadable samples")
    start: BeginConfig = key(BeginConfig, "continuing from another run, as the stages of a file do")
