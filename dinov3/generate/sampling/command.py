"""``dinov3 dit sample``: images from an image, a text, both, the features of two images, or nothing."""

from __future__ import annotations

import argparse
import io
import math
import re
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dinov3.data.decode import decode, fit_channels
from dinov3.features.command import numbered_gpu
from dinov3.features.extract import known_device, load
from dinov3.generate.buckets import Bucket
from dinov3.generate.errors import GenerateError
from dinov3.generate.samplers import METHODS
from dinov3.generate.sampling.asked import Seen, Trained, mixed
from dinov3.generate.sampling.guided import MODES, Recipe, latents_from
from dinov3.generate.training.model_file import load_dit
from dinov3.generate.validation.grid import write_grid
from dinov3.runs.output import check_results_folder
from dinov3.system.bars import Bar
from dinov3.system.files import write_whole
from dinov3.system.paths import expanded

TOGETHER = 4  # images that go through the model at once
DESCRIPTION = """\
Images made by a trained diffusion transformer: with the layout of an image, by a text, by both, with features between those
of two images, or from nothing. Each image depends on its seed, not on the others. OUT gets one PNG a seed and grid.png.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 dit sample``."""
    parser.description = DESCRIPTION
    parser.add_argument(
        "model", type=expanded, help="run of `dinov3 dit train`, a checkpoint of one, or its dit.safetensors"
    )
    parser.add_argument("--out", required=True, type=expanded, help="folder of the images")
    parser.add_argument("--image", type=expanded, help="an image whose features are the condition; needs --weights")
    parser.add_argument("--mix", type=expanded, help="another image: features between both")
    parser.add_argument("--mix-share", type=float, default=0.5, help="of --image, from 0 to 1 (default 0.5)")
    parser.add_argument("--text", help="a text")
    parser.add_argument("--weights", type=expanded, help="the backbone whose features the model was trained on")
    parser.add_argument("--preset", help="released model the weights are of, when the file cannot tell")
    parser.add_argument("--interpolation", choices=("bicubic", "bilinear"), default="bicubic")
    parser.add_argument("--t5", type=expanded, help="folder of the T5, where the texts came from one")
    parser.add_argument("--vae", type=expanded, help="folder of the VAE, where the latents came from one")
    parser.add_argument("--size", help="px, WIDTHxHEIGHT (default: that of the image's bucket, or a square)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3], help="one image each (default 0 1 2 3)")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help=f"default {Recipe.steps}")
    parser.add_argument("--method", choices=METHODS, default="euler", help="heun asks the model twice a step")
    parser.add_argument(
        "--guidance",
        choices=MODES,
        help="independent: both conditions push away from none; chained: the text pushes away from features alone; "
        "full: no guidance (default: independent)",
    )
    parser.add_argument("--text-scale", type=float, help=f"default {Recipe.text_scale:g}")
    parser.add_argument("--dino-scale", type=float, help=f"default {Recipe.dino_scale:g}")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.set_defaults(run=execute)


def execute(args: argparse.Namespace) -> int:
    """Run the command. Raises GenerateError and other foreseeable errors."""
    check_results_folder(args.out, "--out")
    device = numbered_gpu(args.device) if ":" in args.device else known_device(args.device)
    trained = Trained(load_dit(args.model, device))
    coder = trained.latents(args.vae and str(args.vae))
    seen = _seen(args, trained)
    bucket = _bucket(args.size, trained, seen)
    if args.text is None and args.t5 is not None:
        raise GenerateError("--t5 is for a text: give --text, too")
    texts = None if args.text is None else trained.text(args.t5 and str(args.t5))
    known = trained.conditions(bucket, min(TOGETHER, len(args.seeds)), seen=seen, text=args.text, coder=texts)
    recipe = _recipe(args, trained.dit.facts["shift_base"])
    asked = list(dict.fromkeys(args.seeds))
    made: list[Tensor] = []
    with Bar(len(asked), about="sampling", unit="images") as bar:
        for first in range(0, len(asked), TOGETHER):
            seeds = asked[first : first + TOGETHER]
            part = known.each(itemgetter(slice(len(seeds))))
            try:
                latents = latents_from(trained.dit.model, part, seeds, bucket.latent(), recipe)
            except ValueError as error:
                raise GenerateError(str(error)) from error
            images = coder.decode(
                trained.dit.normaliser.back("latents", latents).cpu()
            )  # a part at a time: a VAE is large
            args.out.mkdir(parents=True, exist_ok=True)
            for seed, image in zip(seeds, images, strict=True):
                write_whole(args.out / f"seed-{seed}.png", png(image))
            made += [*images]
            bar.update(len(seeds))
    write_grid(args.out / "grid.png", {**dict(_given(args, bucket)), "made": torch.stack(made)})
    number = f"{len(made)} image{'s' * (len(made) != 1)}"
    print(f"{number} of {bucket} px in {args.out}, beside each other in grid.png")
    return 0


def _recipe(args: argparse.Namespace, shift_base: float | None) -> Recipe:
    """GenerateError for what cannot be done."""
    scales = {"--text-scale": args.text_scale, "--dino-scale": args.dino_scale}
    for option, value in scales.items():
        if value is not None and not math.isfinite(value):
            raise GenerateError(f"{option} {value:g}: give a finite number")
        if value is not None and args.guidance == "full":
            raise GenerateError(f"{option} {value:g}: --guidance full pushes nothing away: leave it out")
    text, dino = args.text_scale, args.dino_scale
    try:
        return Recipe(
            args.steps,
            args.method,
            args.guidance or "independent",
            Recipe.text_scale if text is None else text,
            Recipe.dino_scale if dino is None else dino,
            shift_base,
        )
    except ValueError as error:
        raise GenerateError(str(error)) from error


def _seen(args: argparse.Namespace, trained: Trained) -> Seen | None:
    if args.image is None:
        if args.mix is not None:
            raise GenerateError("--mix needs --image: the other of the two")
        return None
    if not trained.dit.model.spec.sees_features:
        raise GenerateError("--image: this model sees texts alone")
    if args.weights is None:
        raise GenerateError("--image needs --weights: the backbone whose features the model was trained on")
    extractor = trained.prepared(
        load(args.weights, size="native", interpolation=args.interpolation, preset=args.preset, device=args.device)
    )
    asked = None if args.size is None else _parsed(args.size, trained.sizing.multiple)
    seen = trained.see(extractor, args.image, asked)
    return seen if args.mix is None else mixed(seen, trained.see(extractor, args.mix, seen.bucket), args.mix_share)


def _bucket(size: str | None, trained: Trained, seen: Seen | None) -> Bucket:
    if seen is not None:
        return seen.bucket
    return trained.default_bucket() if size is None else _parsed(size, trained.sizing.multiple)


def _parsed(size: str, multiple: int) -> Bucket:
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size)
    sides = [int(side) for side in match.groups()] if match else []
    if not sides or any(side % multiple or not side for side in sides):
        raise GenerateError(f"--size {size}: WIDTHxHEIGHT, both multiples of {multiple}")
    return Bucket(sides[0], sides[1])


def _given(args: argparse.Namespace, bucket: Bucket) -> Iterator[tuple[str, Tensor]]:
    """The images that were given, as rows of the grid."""
    for name, path in (("image", args.image), ("mix", args.mix)):
        if path is not None:
            yield name, opened(path, bucket)[None]


def opened(path: Path, bucket: Bucket) -> Tensor:
    """An image ``[3, H, W]`` in [0, 1] of a size, as the backbone was shown it: turned, of three channels of 8 bits."""
    found = Image.fromarray(fit_channels(decode(path.read_bytes())[:, :, :3], 3))
    pixels = np.asarray(found.resize((bucket.width, bucket.height), Image.Resampling.BICUBIC))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255


def png(image: Tensor) -> bytes:
    """``[3, H, W]`` in [0, 1] as a PNG."""
    out = io.BytesIO()
    pixels = (image.clamp(0, 1).permute(1, 2, 0).numpy() * 255 + 0.5).astype(np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
