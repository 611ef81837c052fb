from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dinov3.cli import main
from dinov3.models.vit import DinoVisionTransformer
from dinov3.weights.own import write_backbone


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone of random weights: patches of 8 px, made for 32 px."""
    model = DinoVisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=1, num_heads=3)
    model.init_weights(torch.Generator().manual_seed(0))
    folder = tmp_path_factory.mktemp("weights")
    write_backbone(folder, model.eval(), {"mean": [0.5] * 3, "std": [0.25] * 3, "size": 32})
    return folder


Evaluate = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def evaluate(weights: Path, tmp_path: Path) -> Evaluate:
    """``evaluate(task, data, *more)``: exit code and the last JSON line ({} when there is none)."""
    out = tmp_path / "result.jsonl"

    def call(task: str, data: str | Path, *more: str) -> tuple[int, dict[str, Any]]:
        common = ["--weights", str(weights), "--data", str(data), "--device", "cpu"]
        kept = ["--cache", str(tmp_path / "cache")] if task in ("seg", "depth") else []
        code = main(["eval", task, *common, *kept, "--out", str(out), *more])
        return code, json.loads(out.read_text().splitlines()[-1]) if out.exists() else {}

    return call


def save(pixels: np.ndarray[Any, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_quarters(root: Path) -> Path:
    """20 images of four coloured quarters each, with their masks and, as depth in millimetres, 1 to 4 m."""
    rng = np.random.default_rng(0)
    colours = np.array([[220, 30, 30], [30, 200, 40], [40, 60, 220], [230, 220, 40]])
    for i in range(20):
        mask = np.kron(rng.permutation(4).reshape(2, 2), np.ones((16, 16), dtype=int))
        pixels = colours[mask] + rng.integers(-15, 15, (32, 32, 1))
        save(pixels.clip(0, 255).astype(np.uint8), root / "images" / f"{i:02d}.png")
        save(mask.astype(np.uint8), root / "masks" / f"{i:02d}.png")
        save((1000 * (mask + 1)).astype(np.uint16), root / "depth" / f"{i:02d}.png")
    return root


@pytest.fixture
def quarters(tmp_path: Path) -> Path:
    """As ``write_quarters`` makes them."""
    return write_quarters(tmp_path / "quarters")
