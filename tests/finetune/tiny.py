"""A fine-tuning run of seconds: a backbone of one block, sixteen pixels, two classes of made tissue."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from dinov3.finetune.classify import KIND
from dinov3.finetune.pcam.files import synthesise
from dinov3.models.vit import DinoVisionTransformer
from dinov3.weights.own import write_backbone

COUNTS = {"train": 40, "valid": 24, "test": 24}
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "size": 16}


def backbone(seed: int = 0, **settings: object) -> DinoVisionTransformer:
    """Random weights, in eval mode."""
    shape = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "n_storage_tokens": 1} | settings
    made = DinoVisionTransformer(**shape)
    made.init_weights(torch.Generator().manual_seed(seed))
    return made.eval()


def write_weights(folder: Path, **settings: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_backbone(folder, backbone(**settings), PREPROCESS)
    return folder


def prepare(folder: Path) -> Path:
    """Made tissue of 16 px and a backbone."""
    synthesise(folder / "pcam", COUNTS, size=16, seed=0)
    write_weights(folder / "weights")
    return folder


def words(at: Path, *, ranks: int = 1, **changes: object) -> list[str]:
    """Keys of a run of 8 steps on what ``prepare(at)`` has made; ``changes`` with ``__`` for the dot."""
    train, validation, test = (f"PCam:root={at}/pcam:split={split}" for split in COUNTS)
    settings: dict[str, object] = {
        "model__weights": at / "weights",
        "model__method": "fullft",
        "train__dataset_path": train,
        "train__batch_size_per_gpu": 10 // ranks,
        "train__num_workers": 1,
        "train__log_every": 1,
        "train__device": "cpu",
        "optim__epochs": 2,
        "evaluation__validation": validation,
        "evaluation__test": test,
        "evaluation__bootstrap": 20,
        "evaluation__period": 2,
        "checkpointing__period": 3,
        **changes,
    }
    return [f"{key.replace('__', '.')}={value}" for key, value in settings.items()]


def main(argv: Sequence[str] | None = None) -> int:
    return KIND.main("finetune", "A tiny classifier.", argv)
