"""A depth run of seconds: a backbone of two blocks, pictures of 32 px."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dinov3.depth.kind import KIND
from tests.finetune.tiny import write_weights

DATA = "Synthetic:n=20:size=32"


def prepare(folder: Path) -> Path:
    """A backbone."""
    write_weights(folder / "weights")
    return folder


def words(at: Path, *, ranks: int = 1, **changes: object) -> list[str]:
    """Keys of a run of 8 steps on ``prepare(at)``; ``changes`` with ``__`` for the dot."""
    settings: dict[str, object] = {
        "task": "depth",
        "model__weights": at / "weights",
        "model__head": "dpt",
        "model__width": 16,
        "model__bins": 12,
        "model__bin_rule": "log",
        "train__dataset_path": DATA,
        "train__low": 0.5,
        "train__high": 60,
        "train__batch_size_per_gpu": 4 // ranks,
        "train__num_workers": 1,
        "train__log_every": 1,
        "train__device": "cpu",
        "augment__crop_height": 24,
        "augment__crop_width": 32,
        "optim__epochs": 2,
        "evaluation__period": 2,
        "checkpointing__period": 3,
        **changes,
    }
    if settings["model__head"] == "linear":
        del settings["model__width"]
    return [f"{key.replace('__', '.')}={value}" for key, value in settings.items()]


def main(argv: Sequence[str] | None = None) -> int:
    return KIND.main("finetune", "A tiny estimator.", argv)
