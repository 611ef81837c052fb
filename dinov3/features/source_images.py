"""The images of a data source, read and prepared in threads; what cannot be read is left out and remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from dinov3.data.bad_samples import BadSample
from dinov3.data.decode import read_image
from dinov3.data.errors import BadImage, DataError
from dinov3.data.sources import Source
from dinov3.data.storage.labels import every_label
from dinov3.features.errors import FeatureError
from dinov3.features.extract import FeatureExtractor, in_threads


class SourceImages:
    """Iterates once over prepared images ``[C, H, W]``. Afterwards ``kept`` has their indices, ``skipped`` the others."""

    def __init__(
        self,
        extractor: FeatureExtractor,
        source: Source,
        indices: Sequence[int],
        count: Callable[[int], object] = lambda more: None,
    ) -> None:
        """``count`` is told of each image that was read, or left out."""
        self.kept: list[int] = []
        self.skipped: list[BadSample] = []
        self._extractor, self._source, self._indices, self._count = extractor, source, indices, count

    def __iter__(self) -> Iterator[Tensor]:
        results = in_threads(self._prepare, self._indices, self._extractor.threads)
        for index, result in zip(self._indices, results, strict=True):
            self._count(1)
            if isinstance(result, BadSample):
                self.skipped.append(result)
            else:
                self.kept.append(index)
                yield result

    def _prepare(self, index: int) -> Tensor | BadSample:
        try:
            pixels = read_image(self._source, index, self._extractor.preprocess.reading)
        except BadImage as error:
            return BadSample(self._source.name(index), str(error))
        try:
            return self._extractor.preprocess(pixels)
        except ValueError as error:  # channels the backbone does not take
            raise FeatureError(f"{self._source.name(index)}: {error}") from error


def class_tokens(
    extractor: FeatureExtractor,
    source: Source,
    indices: Sequence[int],
    count: Callable[[int], object] = lambda more: None,
) -> tuple[Tensor, Tensor, list[int]]:
    """Class tokens ``[N, D]``, labels ``[N]`` and indices of the chosen images that can be read.

    DataError when one has no label, or none can be read."""
    images = SourceImages(extractor, source, indices, count)
    features = [tokens[0].cls for tokens in extractor.stream_prepared(images)]
    if not images.kept:
        bad = images.skipped[0]
        raise DataError(f"none of {len(images.skipped)} images can be read; the first, {bad.name}: {bad.reason}")
    labels = every_label(source, "k-NN", "it needs class subfolders or labels", images.kept)
    return torch.cat(features), torch.tensor(labels), images.kept
