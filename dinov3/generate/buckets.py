"""Sizes that images are brought to: whole, nearly in their own shape, with sides that the patch divides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MULTIPLE = 16  # px: the patch of every DINOv3 ViT, and a token of the transformer (latents of 8 px, patches of 2)
LATENT = 8  # px of the image per side of a latent
TEXT_LENGTH = 512  # tokens of text in the context, as T5 is used
SIDE = 1024  # px: what SEVEN are for


def to_multiple(side: float, multiple: int = MULTIPLE) -> int:
    """The nearest multiple, halves up, at least one: 1000 is 1008 (Python's ``round`` gives 992)."""
    return max(1, math.floor(side / multiple + 0.5)) * multiple


def down_to_multiple(side: float, multiple: int = MULTIPLE) -> int:
    """The next multiple below, at least one."""
    return max(1, math.floor(side / multiple)) * multiple


@dataclass(frozen=True, order=True)
class Bucket:
    """A size in px."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def folder(self) -> str:
        """Where its shards lie."""
        return f"bucket_{self}"

    def grid(self, patch: int = MULTIPLE) -> tuple[int, int]:
        """(rows, cols) of patches."""
        return self.height // patch, self.width // patch

    def latent(self) -> tuple[int, int]:
        """(rows, cols) of a latent."""
        return self.height // LATENT, self.width // LATENT

    def patches(self, patch: int = MULTIPLE) -> int:
        """Patches of an image."""
        rows, cols = self.grid(patch)
        return rows * cols

    def context(self, text_length: int = TEXT_LENGTH) -> int:
        """Tokens that the transformer sees of conditions: text, one class token, the patches."""
        return text_length + 1 + self.patches()

    def stretch(self, width: int, height: int) -> float:
        """How much more one side grows than the other when an image of this size is brought here; 1 is not at all."""
        ratio = (self.width * height) / (self.height * width)
        return max(ratio, 1 / ratio)


SEVEN = (
    *(Bucket(1024, 1024), Bucket(1216, 832), Bucket(832, 1216), Bucket(1280, 768)),
    *(Bucket(768, 1280), Bucket(1344, 704), Bucket(704, 1344)),
)


def buckets_of_side(side: int, multiple: int = MULTIPLE) -> tuple[Bucket, ...]:
    """``SEVEN`` for images of about ``side ** 2`` px, without those that become equal."""
    scaled = [[to_multiple(length * side / SIDE, multiple) for length in (b.width, b.height)] for b in SEVEN]
    return tuple(dict.fromkeys(Bucket(width, height) for width, height in scaled))


def nearest(buckets: Sequence[Bucket], width: int, height: int) -> Bucket:
    """The bucket whose shape is nearest to that of an image, the first of equals."""
    return min(buckets, key=lambda bucket: bucket.stretch(width, height))
