"""May this config continue that run? Some keys decide what the weights mean; those cannot change under way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dinov3.config.errors import ConfigError

# A key is fixed when it starts with one of these. Everything else may change and is recorded.
FIXED = (
    "student.",
    "dino.head_",
    "ibot.head_",
    "ibot.separate_head",
    "gram.use_loss",
    "gram.ema_teacher",
    "da3.",
    "optim.optimizer",
    "optim.adamw_",
    "train.seed",
    "train.dataset_path",
    "train.batch_size_per_gpu",
    "train.centering",
)
# Schedules and speed, not meaning.
FREE = (
    "da3.loss_weight",
    "da3.ckpt_path",
    "da3.use_fsdp",
    "da3.dtype",
    "student.drop_path_rate",
    "student.fp8",
    "student.pretrained_weights",
    "student.resume_from_teacher_chkpt",
)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys of a nested mapping."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Key -> (old, new) for every key whose value differs."""
    a, b = flatten(old), flatten(new)
    return {k: (a.get(k), b.get(k)) for k in sorted({*a, *b}) if a.get(k) != b.get(k)}


def refuse_fixed(changes: Mapping[str, tuple[Any, Any]], allowed: Sequence[str], run: str) -> None:
    """ConfigError when a fixed key changed and ``resume.allow`` does not list it."""
    for key, (old, new) in changes.items():
        if key.startswith(FIXED) and not key.startswith(FREE) and key not in allowed:
            problem = (
                f"this run was started with {old!r}, now it is {new!r}; "
                f"use another --output-dir, put the old value back, or add {key} to resume.allow"
            )
            raise ConfigError(run, key, problem)
