"""A detection run of seconds: a backbone of two blocks, pictures of 32 px; and COCO folders of made squares."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dinov3.detect.kind import KIND
from tests.finetune.tiny import write_weights

DATA = "Synthetic:n=20:size=32"


def prepare(folder: Path) -> Path:
    """A backbone."""
    write_weights(folder / "weights")
    return folder


def words(at: Path, *, ranks: int = 1, **changes: object) -> list[str]:
    """Keys of a run of 8 steps on ``prepare(at)``; ``changes`` with ``__`` for the dot."""
    settings: dict[str, object] = {
        "task": "detect",
        "model__weights": at / "weights",
        "model__levels": 2,
        "model__width": 16,
        "model__depth": 1,
        "train__dataset_path": DATA,
        "train__batch_size_per_gpu": 4 // ranks,
        "train__num_workers": 1,
        "train__log_every": 1,
        "train__device": "cpu",
        "augment__side": 32,
        "optim__epochs": 2,
        "evaluation__period": 2,
        "evaluation__least_score": 0.001,
        "checkpointing__period": 3,
        **changes,
    }
    return [f"{key.replace('__', '.')}={value}" for key, value in settings.items()]


def main(argv: Sequence[str] | None = None) -> int:
    return KIND.main("finetune", "A tiny detector.", argv)


def coco(n: int = 10) -> dict[str, Any]:
    """Annotations of ``n`` images of 40x32 px, two boxes each; the ids have gaps, as COCO's do."""
    images = [{"id": 10 * i, "file_name": f"{i}.png", "width": 40, "height": 32} for i in range(n)]
    annotations = []
    for i in range(n):
        for category, left in ((3, 2), (7, 22)):
            box = [left + i % 3, 4, 14, 12 + i % 5]
            annotations.append({"id": len(annotations), "image_id": 10 * i, "category_id": category, "bbox": box})
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 7, "name": "bright"}, {"id": 3, "name": "dark"}],
    }


def write_folder(root: Path, told: dict[str, Any]) -> Path:
    """``images/`` and ``annotations.json``; the boxes are painted."""
    (root / "images").mkdir(parents=True)
    shade = {3: 20, 7: 240}
    for image in told["images"]:
        pixels = np.full((32, 40, 3), 128, np.uint8)
        for row in told["annotations"]:
            if row["image_id"] == image["id"] and len(row["bbox"]) == 4:
                left, top, width, height = (round(number) for number in row["bbox"])
                pixels[max(top, 0) : top + height, max(left, 0) : left + width] = shade.get(row["category_id"], 0)
        Image.fromarray(pixels).save(root / "images" / image["file_name"])
    write_json(root, told)
    return root


def write_json(root: Path, told: dict[str, Any]) -> None:
    (root / "annotations.json").write_text(json.dumps(told))
