"""``dinov3 dit demo``: the whole way on made pictures: extract, verify, train, sample, swap, report."""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dinov3.data.sources.synthetic import SHAPES, Synthetic
from dinov3.generate.errors import GenerateError
from dinov3.models.vit import DinoVisionTransformer
from dinov3.runs.output import check_results_folder
from dinov3.system.files import write_whole
from dinov3.system.paths import expanded
from dinov3.system.rows import read_rows
from dinov3.weights.own import write_backbone

IMAGES, HELD_OUT, SIDE = 600, 32, 128
RECIPE = "dit/demo_cpu"
LIMITS = {"recon_mse": 0.2, "swap_ratio": 0.2}  # what the demonstration has to reach
DESCRIPTION = f"""\
The whole way of features into a diffusion transformer, on {IMAGES} made pictures, in some minutes on two CPU cores: extract, verify,
train, sample, report. Measured on {HELD_OUT} pictures that it was not trained on. Nothing is downloaded; without --weights the
backbone is an untrained ViT, whose features say where which colours are, and no more. The same command goes on where it was killed.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 dit demo``."""
    parser.description = DESCRIPTION
    parser.add_argument("--out", type=expanded, default=Path("runs/dit-demo"), help="folder (default runs/dit-demo)")
    parser.add_argument("--weights", type=expanded, help="a trained backbone in place of the untrained one")


def untrained_backbone(folder: Path) -> None:
    """A small ViT with its first random weights, always the same."""
    model = DinoVisionTransformer(
        img_size=SIDE,
        patch_size=16,
        embed_dim=96,
        depth=2,
        num_heads=3,
        n_storage_tokens=4,
        pos_embed_rope_dtype="fp32",
    )
    model.init_weights(torch.Generator().manual_seed(0))
    folder.mkdir(parents=True, exist_ok=True)
    write_backbone(folder, model, {"mean": [0.5] * 3, "std": [0.25] * 3, "size": SIDE})


def captions(path: Path, source: Synthetic) -> None:
    """What is in each picture, in words."""
    shapes = list(SHAPES)
    rows = [
        {"image": source.name(i), "caption": f"a {shapes[source.label(i) % len(shapes)]} in a landscape"}
        for i in range(len(source))
    ]
    write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))


def picture(path: Path, source: Synthetic, index: int) -> None:
    """One picture as a PNG."""
    out = io.BytesIO()
    Image.fromarray(np.asarray(source.read(index))).save(out, "PNG")
    write_whole(path, out.getvalue())


def extraction(out: Path, weights: Path, name: str, data: str) -> list[str]:
    """The words of an extraction."""
    return [
        *("extract", "--weights", str(weights), "--data", data, "--out", str(out / name), "--side", str(SIDE)),
        *("--text", "hash:8:32", "--captions", str(out / f"{name}.jsonl"), "--latents", "pixels", "--shard-mb", "4"),
    ]


def commands(out: Path, weights: Path, sets: Mapping[str, str]) -> list[list[str]]:
    """The words of ``dinov3 dit``, one command after the other; ``sets``: data by the name of their shards."""
    run, asked = out / "run", ["--weights", str(weights), "--seeds", "0", "1", "2", "3", "--steps", "25"]
    a, b = str(out / "a.png"), str(out / "b.png")
    return [
        *(extraction(out, weights, name, data) for name, data in sets.items()),
        *(["verify", str(out / name)] for name in sets),
        [
            *("train", "--config-file", RECIPE, "--output-dir", str(run), f"train.dataset_path={out / 'shards'}"),
            *(f"validation.path={out / 'held_out'}", f"validation.backbone={weights}"),
        ],
        ["sample", str(run), "--out", str(out / "samples"), "--image", a, "--text", "a ring in a landscape", *asked],
        ["sample", str(run), "--out", str(out / "mixed"), "--image", a, "--mix", b, "--guidance", "full", *asked],
        ["report", str(run)],
    ]


def demonstrate(out: Path, weights: Path | None, call: Callable[[Sequence[str]], int]) -> int:
    """``call`` runs one command of ``dinov3 dit``. GenerateError when one fails, or the figures are worse than LIMITS."""
    began, cpu = time.monotonic(), time.process_time()
    check_results_folder(out, "--out")
    out.mkdir(parents=True, exist_ok=True)
    sizes = {"shards": (IMAGES, 0), "held_out": (HELD_OUT, 1)}  # name -> pictures, seed
    for name, (count, seed) in sizes.items():
        captions(out / f"{name}.jsonl", Synthetic(count, SIDE, seed=seed, near=2))
    for index, name in enumerate(("a.png", "b.png")):
        picture(out / name, Synthetic(HELD_OUT, SIDE, seed=1, near=2), index)
    if weights is None:
        weights = out / "backbone"
        untrained_backbone(weights)
    sets = {name: f"Synthetic:n={n}:size={SIDE}:seed={seed}:near=2" for name, (n, seed) in sizes.items()}
    for words in commands(out, weights, sets):
        print(f"\n$ dinov3 dit {' '.join(words)}", flush=True)
        if code := call(words):
            raise GenerateError(f"dinov3 dit {words[0]} ended with {code}")
    last = read_rows(out / "run" / "evaluation.jsonl")[-1]
    spent, busy = time.monotonic() - began, time.process_time() - cpu
    print(
        f"\n{spent:.0f} s, {busy:.0f} s of them on a CPU; look at {out / 'run' / 'pictures'} and {out / 'samples' / 'grid.png'}"
    )
    if missed := [
        f"{name} {last[name]:.3f} (below {limit:g})" for name, limit in LIMITS.items() if not last[name] < limit
    ]:
        raise GenerateError(f"{out}: the demonstration did not reach {', '.join(missed)}")
    return 0
