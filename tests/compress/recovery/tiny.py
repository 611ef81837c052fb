"""A recovery of seconds: half of the neurons of a backbone of two blocks are cut, and sixteen pixels bring back what they can."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from dinov3.cli import main as dinov3
from dinov3.compress.recovery.kind import KIND
from dinov3.weights.own import write_backbone
from tests.compress.models import vit
from tests.finetune.tiny import PREPROCESS

IMAGES = "Synthetic:n=40:size=16"


def prepare(folder: Path) -> Path:
    """``whole`` and, cut by an energy rule, ``small.safetensors``."""
    (folder / "whole").mkdir(parents=True)
    torch.manual_seed(0)
    write_backbone(folder / "whole", vit(img_size=16), PREPROCESS)
    out = folder / "small.safetensors"
    assert dinov3(["compress", str(folder / "whole"), "--method", "mlp", "--amount", "0.6", "--out", str(out)]) == 0
    return folder


def words(at: Path, *, ranks: int = 1, **changes: object) -> list[str]:
    """Keys of a run of 8 steps on what ``prepare(at)`` has made; ``changes`` with ``__`` for the dot."""
    settings: dict[str, object] = {
        "model__weights": at / "small.safetensors",
        "model__teacher": at / "whole",
        "train__dataset_path": IMAGES,
        "train__batch_size_per_gpu": 10 // ranks,
        "train__num_workers": 1,
        "train__log_every": 1,
        "train__device": "cpu",
        "optim__epochs": 2,
        "evaluation__max_images": 12,
        "evaluation__period": 4,
        "checkpointing__period": 3,
        **changes,
    }
    return [f"{key.replace('__', '.')}={value}" for key, value in settings.items()]


def main(argv: Sequence[str] | None = None) -> int:
    return KIND.main("finetune", "A tiny recovery.", argv)
