"""What is asked of a trained transformer, as conditions: features of images, a text, both, or neither."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dinov3.data.errors import BadImage
from dinov3.features.cache import weights_digest
from dinov3.features.extract import FeatureExtractor
from dinov3.generate.buckets import Bucket
from dinov3.generate.errors import GenerateError
from dinov3.generate.extract import half, pooled
from dinov3.generate.inputs.base import LatentCoder, TextCoder
from dinov3.generate.inputs.open import latent_coder, text_coder
from dinov3.generate.inputs.vae import VaeLatents
from dinov3.generate.plan import Form
from dinov3.generate.sizing import BucketPreprocess, Sizing, bucketed, digest
from dinov3.generate.training.model_file import TrainedDit
from dinov3.models.diffusion.transformer import Conditions
from dinov3.system.errors import first_line


class Seen(NamedTuple):
    """An image as a model is shown it: features as they are stored."""

    bucket: Bucket
    cls: Tensor  # [D] fp16
    patches: Tensor  # [N, D] fp16


@dataclass(frozen=True)
class Trained:
    """A trained transformer and what it was trained on, for making conditions. GenerateError for what does not fit it."""

    dit: TrainedDit

    @property
    def form(self) -> Form:
        """Of the samples."""
        return Form.of_key(self.dit.facts["key"])

    @property
    def sizing(self) -> Sizing:
        """How images were brought to a size."""
        key = self.dit.facts["key"]
        told = dict(key["preprocess"]["buckets"])
        return Sizing(
            side=told.get("side"),
            max_side=told.get("max_side", Sizing.max_side),
            pool=key["pool"],
            max_stretch=key["max_stretch"],
        )

    def prepared(self, extractor: FeatureExtractor) -> FeatureExtractor:
        """``extractor`` resizing as in training. GenerateError for another backbone or other preprocessing."""
        if weights_digest(extractor.backbone) != self.form.weights:
            raise GenerateError("--weights: not the backbone whose features this model was trained on")
        preprocess = bucketed(extractor.preprocess, self.sizing)
        if digest(preprocess.describe()) != self.form.preproc_hash:
            raise GenerateError("--weights: prepares images in another way than in training (--interpolation?)")
        extractor.preprocess = preprocess
        return extractor

    def see(self, extractor: FeatureExtractor, image: Path, bucket: Bucket | None = None) -> Seen:
        """An image in its bucket or, whatever its shape, in ``bucket``. ``extractor`` comes from ``prepared``."""
        plain = extractor.preprocess
        assert isinstance(plain, BucketPreprocess)
        if bucket is not None:
            extractor.preprocess = plain.forced(bucket)
        try:
            (tokens,) = extractor.extract_each([image])
        except (BadImage, OSError, ValueError) as error:
            raise GenerateError(f"{image}: cannot be used: {first_line(error).removeprefix(f'{image}: ')}") from error
        finally:
            extractor.preprocess = plain
        rows, cols = tokens.grid
        patch = self.form.patch
        cls = torch.from_numpy(half(tokens.cls[0], str(image)))
        patches = torch.from_numpy(half(pooled(tokens.patches[0], tokens.grid, self.form.pool), str(image)))
        return Seen(Bucket(cols * patch, rows * patch), cls, patches)

    def text(self, given: str | None) -> TextCoder:
        """The coder of the texts; ``given``: folder of a T5, where that is what it was."""
        name = str(self.dit.facts["key"]["text"])
        kind, *rest = name.split(":")
        if kind != "t5" and given is not None:
            raise GenerateError(f"--t5 {given}: this model's texts came from {kind}: leave it out")
        if kind == "npy":
            raise GenerateError("--text: this model's texts came from files of another program: ask without a text")
        if kind == "t5" and given is None:
            raise GenerateError("--text: this model's texts came from a T5: give --t5 FOLDER")
        coder = text_coder(name if kind != "t5" else f"t5:{given}:{rest[-1]}")
        if coder.name != name:
            raise GenerateError(f"--t5 {given}: another T5 than the one of training")
        return coder

    def latents(self, given: str | None) -> LatentCoder:
        """The coder of the latents; ``given``: folder of a VAE, where that is what it was."""
        name = str(self.dit.facts["key"]["latents"])
        if name == "pixels":
            if given is not None:
                raise GenerateError(f"--vae {given}: this model's latents are pixels: leave it out")
            return latent_coder(name)
        if given is None:
            raise GenerateError("this model makes latents of a VAE: give --vae FOLDER to see images")
        coder = VaeLatents.load(given)
        if name not in ("npy", coder.name):
            raise GenerateError(f"--vae {given}: another VAE than the one of training")
        return coder

    def default_bucket(self) -> Bucket:
        """The size for a text without an image: a square."""
        side = self.sizing.side or self.sizing.max_side
        return self.sizing.nearest(side, side)

    def conditions(
        self, bucket: Bucket, rows: int, *, seen: Seen | None, text: str | None, coder: TextCoder | None
    ) -> Conditions:
        """``rows`` equal rows; what is None is dropped."""
        form, normaliser = self.form, self.dit.normaliser
        device = normaliser.get_buffer("cls_mean").device
        grid = form.grid(bucket)
        cls = torch.zeros(form.width) if seen is None else seen.cls
        patches = torch.zeros(grid[0] * grid[1], form.width) if seen is None else seen.patches
        tokens, mask = torch.zeros(form.text_length, form.text_width), torch.zeros(form.text_length, dtype=torch.bool)
        if text is not None and coder is not None:
            found = coder.encode(text)
            tokens, mask = torch.from_numpy(found.tokens).float(), torch.from_numpy(found.mask).bool()
        one = Conditions(
            text=tokens[None].to(device),
            text_mask=mask[None].to(device),
            cls=normaliser("cls", cls[None].to(device)),
            patches=normaliser("patches", patches[None].to(device)),
            grid=grid,
            without_text=torch.tensor([text is None], device=device),
            without_features=torch.tensor([seen is None], device=device),
        )
        return one.each(lambda part: part.repeat(rows, *[1] * (part.ndim - 1)))


def mixed(first: Seen, second: Seen, share: float) -> Seen:
    """Features between those of two images of one size; ``share`` of the first, from 0 to 1."""
    if not 0 <= share <= 1:
        raise GenerateError(f"--mix-share {share:g}: from 0 to 1")
    parts = [torch.lerp(b.float(), a.float(), share).half() for a, b in zip(first[1:], second[1:], strict=True)]
    return Seen(first.bucket, *parts)
