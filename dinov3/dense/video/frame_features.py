"""Patch features of one frame of a video, at a size made for its patches."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dinov3.data.decode import Pixels
from dinov3.dense.augment import resized_pixels
from dinov3.dense.views import normalised
from dinov3.features.errors import FeatureError
from dinov3.features.extract import FeatureExtractor
from dinov3.features.tokens import Tokens


@dataclass(frozen=True)
class FrameReader:
    """``tokens(pixels)`` of single frames, resized so that the short side is ``short_side`` px (0: by --size)."""

    extractor: FeatureExtractor
    short_side: int = 0

    def size(self, height: int, width: int) -> tuple[int, int]:
        """What a frame is resized to: both sides to the nearest whole patch."""
        if not self.short_side:
            return self.extractor.preprocess.target(height, width)
        patch, scale = self.extractor.preprocess.patch, self.short_side / min(height, width)
        return max(1, round(scale * height / patch)) * patch, max(1, round(scale * width / patch)) * patch

    def tokens(self, pixels: Pixels) -> Tokens:
        """All tokens of ``pixels [H, W, 3]``."""
        if pixels.shape[2] != len(self.extractor.preprocess.mean):
            raise FeatureError(
                f"frames have {pixels.shape[2]} channels, this backbone takes {len(self.extractor.preprocess.mean)}"
            )
        image = normalised(resized_pixels(pixels, self.size(pixels.shape[0], pixels.shape[1])), self.extractor)
        (layers,) = self.extractor.stream_prepared([image])
        return layers[0]

    def map(self, pixels: Pixels) -> Tensor:
        """Patch features ``[h, w, D]`` of a frame."""
        return rows_of(self.tokens(pixels))


def rows_of(tokens: Tokens) -> Tensor:
    """The patches of one frame as a map ``[h, w, D]``."""
    return tokens.patches[0].unflatten(0, tokens.grid)
