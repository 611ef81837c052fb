"""A tiny run of three stages: pretraining, Gram anchoring, another resolution."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.train.tiny import OVERRIDES

NAMES = ("pretrain", "gram", "high_res")
STEPS = (4, 8, 4)
FOLDERS = tuple(f"stage-{number}-{name}" for number, name in enumerate(NAMES, start=1))
STAGES = {
    "pretrain": {"optim": {"epochs": 1}},
    "gram": {"optim": {"epochs": 2, "lr": 1e-4}, "gram": {"use_loss": True, "source": "init"}},
    "high_res": {
        "optim": {"epochs": 1},
        "start": {"student": "ema"},
        "crops": {
            "global_crops_size": [32, 48],
            "local_crops_size": [16, 24],
            "gram_teacher_crops_size": [48, 64],
        },
        "gram": {"use_loss": True, "source": "path", "ckpt": "stage:pretrain"},
    },
}


def write(path: Path, **changes: object) -> Path:
    """The YAML; ``changes``: other values for all stages, ``train__seed=1``."""
    tree: dict[str, object] = {"stages": list(NAMES), "stage": STAGES}
    short = {"optim.warmup_epochs": 0, "optim.freeze_last_layer_epochs": 0, "teacher.warmup_teacher_temp_epochs": 0}
    values = OVERRIDES | short | {"evaluation.pictures": False, "student.layerscale": 1.0}
    for key, value in (values | {k.replace("__", "."): v for k, v in changes.items()}).items():
        block, name = key.split(".")
        if key != "optim.epochs":
            inner = tree.setdefault(block, {})
            assert isinstance(inner, dict)
            inner[name] = value
    path.write_text(yaml.safe_dump(tree))
    return path


def command(file: Path, out: Path, *options: str) -> list[str]:
    return ["--config-file", str(file), "--output-dir", str(out), *options]
