"""Which size an image is brought to, and that as the preprocessing of a backbone."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import Any

from dinov3.features.preprocess import Preprocess
from dinov3.generate.buckets import MULTIPLE, SIDE, Bucket, buckets_of_side, nearest, to_multiple
from dinov3.generate.errors import GenerateError

POOLS = (1, 2)  # patches that are averaged along each side


@dataclass(frozen=True)
class Sizing:
    """The bucket of an image. Raises GenerateError for options that make no sense.

    ``side``: the seven buckets, for images of about ``side ** 2`` px; None: each image's own size to the nearest multiple,
    shrunk to ``max_side``. Images are never cropped; one whose sides would have to grow by factors that differ by more
    than ``max_stretch`` has no bucket.
    """

    side: int | None = SIDE
    max_side: int = 1536  # px
    pool: int = 1  # then both sides have an even number of patches
    max_stretch: float = 1.25  # half way between two neighbours of the seven is 1.21 at most

    def __post_init__(self) -> None:
        if self.pool not in POOLS:
            raise GenerateError(f"pool {self.pool}: choose {' or '.join(map(str, POOLS))}")
        for name, value in (("side", self.side), ("max side", self.max_side)):
            if value is not None and value < self.multiple:
                raise GenerateError(f"a {name} of {value} px: at least {self.multiple}")
        if not self.max_stretch >= 1:
            raise GenerateError(f"max stretch {self.max_stretch:g}: at least 1, which is none")

    @property
    def multiple(self) -> int:
        """px that divide every side."""
        return MULTIPLE * self.pool

    def nearest(self, height: int, width: int) -> Bucket:
        """The bucket whose shape is nearest."""
        if self.side is not None:
            return nearest(buckets_of_side(self.side, self.multiple), width, height)
        scale = min(1.0, self.max_side / max(height, width))
        return Bucket(*(to_multiple(length * scale, self.multiple) for length in (width, height)))

    def bucket(self, height: int, width: int) -> Bucket | None:
        """``nearest``, or None where that would stretch the image too much."""
        found = self.nearest(height, width)
        return found if found.stretch(width, height) <= self.max_stretch else None

    def describe(self) -> dict[str, Any]:
        """Everything that changes a size."""
        own = {"max_side": self.max_side} if self.side is None else {"side": self.side}
        return {**own, "multiple": self.multiple}


@dataclass(frozen=True)
class BucketPreprocess(Preprocess):
    """The whole image, resized once to its bucket."""

    sizing: Sizing = field(default_factory=Sizing, kw_only=True)
    bucket: Bucket | None = field(default=None, kw_only=True)  # where it is given, every image is brought to it

    def forced(self, bucket: Bucket) -> BucketPreprocess:
        """The same for one size, whatever an image's shape."""
        return replace(self, bucket=bucket)

    def target(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the bucket."""
        found = self.bucket or self.sizing.nearest(height, width)
        return found.height, found.width

    def describe(self) -> dict[str, Any]:
        """Everything that changes the result."""
        return {**super().describe(), "buckets": self.sizing.describe()}


def bucketed(plain: Preprocess, sizing: Sizing) -> BucketPreprocess:
    """``plain`` with sizes from ``sizing``. Raises GenerateError for a patch that does not fit the transformer's tokens."""
    if MULTIPLE % plain.patch:
        raise GenerateError(
            f"the backbone's patch of {plain.patch} px does not divide the {MULTIPLE} px of a token: use a ViT of patch 16 or 8"
        )
    return BucketPreprocess(plain.mean, plain.std, plain.patch, interpolation=plain.interpolation, sizing=sizing)


def digest(facts: Any) -> str:
    """The hash under which facts are recognised."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
