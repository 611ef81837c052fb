"""Extraction against a plain loop of transformers, and against ``dinov3 features``: one run, one tiny model, the same images.

    python benchmarks/extraction.py [--images 96] [--rounds 3]

Each way reads the same PNG files of several shapes, brings them to multiples of 16 px, and keeps class token and patches in fp16: the plain
loop one image at a time with the exported model in Hugging Face's layout, as a script would; ``features`` and ``dit extract`` with
hashes, manifests and whole files. They take turns; the best round of each counts, in processor seconds and by the clock.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dinov3.cli import main as dinov3
from dinov3.data.torchvision_compat import prepare_torchvision
from dinov3.generate.buckets import to_multiple
from dinov3.models.vit import DinoVisionTransformer
from dinov3.weights.own import write_backbone

SHAPES = ((224, 224), (256, 176), (176, 256), (288, 160))  # width x height
MEAN, STD = 0.5, 0.25


def prepare(folder: Path, images: int) -> None:
    """Images, weights, and the weights in Hugging Face's layout."""
    random = np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in range(images):
        coarse = Image.fromarray(random.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        coarse.resize(SHAPES[number % len(SHAPES)]).save(folder / "images" / f"{number:05d}.png")
    model = DinoVisionTransformer(
        img_size=224,
        patch_size=16,
        embed_dim=192,
        depth=4,
        num_heads=3,
        n_storage_tokens=4,
        pos_embed_rope_dtype="fp32",
    )
    model.init_weights(torch.Generator().manual_seed(0))
    (folder / "weights").mkdir()
    write_backbone(folder / "weights", model, {"mean": [MEAN] * 3, "std": [STD] * 3, "size": 224})
    assert dinov3(["export", str(folder / "weights"), "--out", str(folder / "hf"), "--format", "hf"]) == 0


@torch.no_grad()
def plain(folder: Path, out: Path) -> None:
    """What a script with transformers does."""
    prepare_torchvision()
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder / "hf").eval()
    registers = model.config.num_register_tokens
    out.mkdir()
    for path in sorted((folder / "images").iterdir()):
        image = Image.open(path).convert("RGB")
        size = to_multiple(image.width), to_multiple(image.height)
        pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC), dtype=np.float32) / 255
        tensor = torch.from_numpy((pixels - MEAN) / STD).permute(2, 0, 1)[None]
        tokens = model(tensor).last_hidden_state[0]
        np.save(out / f"{path.stem}.dinov3.npy", tokens[0].half().numpy())
        np.save(out / f"{path.stem}.dinov3_patches.npy", tokens[1 + registers :].half().numpy())


def command(*words: str) -> Callable[[Path, Path], None]:
    """A way by one of our commands."""

    def run(folder: Path, out: Path) -> None:
        given = ["--weights", str(folder / "weights"), "--data", str(folder / "images"), "--out", str(out)]
        assert dinov3([*words, *given, "--device", "cpu", "--batch-size", "16"]) == 0

    return run


WAYS: dict[str, Callable[[Path, Path], None]] = {
    "plain transformers loop": plain,
    "dinov3 features": command("features", "--pool", "patches"),
    "dinov3 dit extract": command("dit", "extract", "--side", "native"),
}


def measured(folder: Path, rounds: int) -> dict[str, tuple[float, float]]:
    """Seconds (of the processor, by the clock) of each way: its best round."""
    best: dict[str, tuple[float, float]] = {}
    for number in range(rounds + 1):  # the first warms up
        for name, way in WAYS.items():
            out = folder / "out"
            shutil.rmtree(out, ignore_errors=True)
            busy, began = time.process_time(), time.perf_counter()
            way(folder, out)
            spent = time.process_time() - busy, time.perf_counter() - began
            if number:
                best[name] = min(spent, best.get(name, spent))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), args.images)
        best = measured(Path(name), args.rounds)
    for way, (busy, clock) in best.items():
        print(f"{way:<26}{args.images / busy:8.1f} images a processor second {args.images / clock:8.1f} images/s")
    print(json.dumps({"images": args.images, "threads": torch.get_num_threads(), "seconds": best}))


if __name__ == "__main__":
    main()
