"""A fine-tuning run of seconds: a backbone of one block, sixteen pixels, two classes of made images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from dinov3.finetune.classify import KIND
from dinov3.models.vit import DinoVisionTransformer
from dinov3.weights.own import write_backbone

TRAIN = "Synthetic:n=40:size=16:classes=2"
VALIDATION, TEST = f"{TRAIN}:seed=1", f"{TRAIN}:seed=2"
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


def words(weights: Path, *, ranks: int = 1, **changes: object) -> list[str]:
    """Keys of a run of 8 steps; ``changes`` with ``__`` for the dot."""
    settings: dict[str, object] = {
        "model__weights": weights,
        "model__method": "fullft",
        "train__dataset_path": TRAIN,
        "train__batch_size_per_gpu": 10 // ranks,
        "train__num_workers": 1,
        "train__log_every": 1,
        "train__device": "cpu",
        "optim__epochs": 2,
        "evaluation__validation": VALIDATION,
        "evaluation__test": TEST,
        "evaluation__bootstrap": 20,
        "evaluation__period": 2,
        "checkpointing__period": 3,
        **changes,
    }
    return [f"{key.replace('__', '.')}={value}" for key, value in settings.items()]


def main(argv: Sequence[str] | None = None) -> int:
    return KIND.main("finetune", "A tiny classifier.", argv)
