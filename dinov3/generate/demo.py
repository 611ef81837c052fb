"""``dinov3 dit demo``: the whole way on made pictures: extract, verify, train, sample, swap, report."""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dinov3.config.output import check_output_folder
from dinov3.data.sources.synthetic import SHAPES, Synthetic
from dinov3.generate.errors import GenerateError
from dinov3.models.vit import DinoVisionTransformer
from dinov3.system.files import write_whole
from dinov3.system.paths import expanded
from dinov3.system.rows import read_rows
from dinov3.weights.own import write_backbone

IMAGES, SIDE = 600, 128
BACKBONE = {"img_size": SIDE, "patch_size": 16, "embed_dim": 96, "depth": 2, "num_heads": 3}
RECIPE = "dit/demo_cpu"
LIMITS = {"recon_mse": 0.2, "swap_ratio": 0.2}  # what the demonstration has to reach
DESCRIPTION = f"""\
The whole way of features into a diffusion transformer, on {IMAGES} made pictures, in some minutes on two CPU cores: extract, verify,
train, sample with the layout of one picture and the text of another, report. Nothing is downloaded; without --weights the
backbone is an untrained ViT, whose features say where which colours are, and no more. The same command goes on where it was killed.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 dit demo``."""
    parser.description = DESCRIPTION
    parser.add_argument("--out", type=expanded, default=Path("runs/dit-demo"), help="folder (default runs/dit-demo)")
    parser.add_argument("--weights", type=expanded, help="a trained backbone in place of the untrained one")
    parser.set_defaults(run=execute)


def untrained_backbone(folder: Path) -> None:
    """A small ViT with its first random weights, always the same."""
    model = DinoVisionTransformer(**BACKBONE, n_storage_tokens=4, pos_embed_rope_dtype="fp32")
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


def commands(out: Path, weights: Path, data: str) -> list[list[str]]:
    """The words of ``dinov3``, one command after the other."""
    shards, run = out / "shards", out / "run"
    asked = ["--weights", str(weights), "--seeds", "0", "1", "2", "3", "--steps", "25"]
    return [
        [
            *("dit", "extract", "--weights", str(weights), "--data", data, "--out", str(shards), "--side", str(SIDE)),
            *(
                "--text",
                "hash:8:32",
                "--captions",
                str(out / "captions.jsonl"),
                "--latents",
                "pixels",
                "--shard-mb",
                "4",
            ),
        ],
        ["dit", "verify", str(shards)],
        [
            *("dit", "train", "--config-file", RECIPE, "--output-dir", str(run)),
            *(f"train.dataset_path={shards}", f"validation.backbone={weights}"),
        ],
        [
            "dit",
            "sample",
            str(run),
            "--out",
            str(out / "samples"),
            "--image",
            str(out / "a.png"),
            "--text",
            "a ring",
            *asked,
        ],
        [
            *("dit", "sample", str(run), "--out", str(out / "mixed"), "--image", str(out / "a.png"), *asked),
            *("--mix", str(out / "b.png"), "--guidance", "full"),
        ],
        ["dit", "report", str(run)],
    ]


def execute(args: argparse.Namespace) -> int:
    """Run the demonstration; 0 when it reached LIMITS."""
    from dinov3.cli import main  # the commands as a user calls them

    return demonstrate(args.out, args.weights, main)


def demonstrate(out: Path, weights: Path | None, call: Callable[[Sequence[str]], int]) -> int:
    """``call`` runs one command. GenerateError when one fails, or the figures are worse than LIMITS."""
    began, cpu = time.monotonic(), time.process_time()
    check_output_folder(out, "--out")
    out.mkdir(parents=True, exist_ok=True)
    data = f"Synthetic:n={IMAGES}:size={SIDE}:near=2"
    source = Synthetic(IMAGES, SIDE, near=2)
    captions(out / "captions.jsonl", source)
    for index, name in enumerate(("a.png", "b.png")):
        picture(out / name, source, index)
    if weights is None:
        weights = out / "backbone"
        untrained_backbone(weights)
    for words in commands(out, weights, data):
        print(f"\n$ dinov3 {' '.join(words)}", flush=True)
        if code := call(words):
            raise GenerateError(f"dinov3 {' '.join(words[:2])} ended with {code}")
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
