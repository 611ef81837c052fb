"""The smallest run that has every part: a few seconds on one core."""

from __future__ import annotations

from pathlib import Path

from dinov3.config.load import load_config
from dinov3.config.schema import Config

OVERRIDES = {
    "student.arch": "vit_small",
    "student.embed_dim": 64,
    "student.depth": 2,
    "student.num_heads": 2,
    "student.patch_size": 8,
    "student.drop_path_rate": 0.1,
    "student.n_storage_tokens": 2,
    "crops.global_crops_size": 32,
    "crops.local_crops_size": 16,
    "crops.local_crops_number": 2,
    "dino.head_n_prototypes": 64,
    "dino.head_hidden_dim": 64,
    "dino.head_bottleneck_dim": 32,
    "ibot.head_n_prototypes": 48,
    "ibot.head_hidden_dim": 64,
    "ibot.head_bottleneck_dim": 32,
    "train.dataset_path": "Synthetic:n=40:size=40",
    "train.batch_size_per_gpu": 8,
    "train.OFFICIAL_EPOCH_LENGTH": 4,
    "train.num_workers": 0,
    "train.log_every": 1,
    "optim.epochs": 3,
    "optim.warmup_epochs": 1,
    "teacher.warmup_teacher_temp_epochs": 1,
    "checkpointing.period": 3,
    "evaluation.pictures": "false",  # curves cost three times what the twelve steps do
}
TOTAL_STEPS = 12


def overrides(**changes: object) -> list[str]:
    """``key=value`` arguments; ``train__seed=1`` sets train.seed."""
    changed = {**OVERRIDES, **{k.replace("__", "."): v for k, v in changes.items()}}
    return [f"{k}={v}" for k, v in changed.items()]


def tiny_config(**changes: object) -> Config:
    return load_config(None, overrides(**changes))


def command(out: Path, *flags: str, **changes: object) -> list[str]:
    return ["--output-dir", str(out), *flags, *overrides(**changes)]
