"""Patch features of a frozen backbone: of a whole set from the cache on disk, or of tensors as a network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinov3.data.sources.source import Source
from dinov3.dense.sets import DenseSet, Mirrored
from dinov3.features.cache import FeatureKind, cached_features
from dinov3.features.errors import FeatureError
from dinov3.features.extract import FeatureExtractor


@dataclass(frozen=True)
class Maps:
    """Patch features of the images ``index`` of a set that could be read."""

    index: list[int]
    maps: Tensor  # [N, D, h, w] float16
    skipped: list[dict[str, Any]]  # name and reason

    def rows(self, mirrored: Maps | None = None) -> Iterator[tuple[int, list[Tensor]]]:
        """(index in the set, ``[D, h, w]`` float32 of the image, and of its mirror when it is given)."""
        both = [self.maps] if mirrored is None else [self.maps, mirrored.maps]
        for row, index in enumerate(self.index):
            yield index, [maps[row].float() for maps in both]


def cached_maps(
    extractor: FeatureExtractor, source: Source, cache: Path, *, max_bad_frac: float, quiet: bool = False
) -> Maps:
    """Last layer patches of a whole set at one size, computed once. FeatureError without a fixed size."""
    if extractor.preprocess.size is None:
        raise FeatureError("--size native gives grids of many sizes: give px, for example --size 224")
    kind = FeatureKind(pool="patches", dtype="fp16")
    found = cached_features(extractor, source, cache, kind, max_bad_frac=max_bad_frac, quiet=quiet)
    shards = [shard for shard in found.shards() if len(shard["index"])]
    if not shards:
        raise FeatureError("no image of this set can be read")
    rows, columns = shards[0]["grid"][0].tolist()
    maps = torch.cat([shard["patches"] for shard in shards]).mT.unflatten(2, (rows, columns))
    index = torch.cat([shard["index"] for shard in shards]).tolist()
    return Maps(index, maps, list(found.manifest["skipped"]))


def views_of(
    extractor: FeatureExtractor, dense: DenseSet, cache: Path, *, flip: bool, max_bad_frac: float, quiet: bool = False
) -> tuple[Maps, Maps | None]:
    """Features of a set and, with ``flip``, of its mirrored images in the same order."""
    plain = cached_maps(extractor, dense, cache, max_bad_frac=max_bad_frac, quiet=quiet)
    if not flip:
        return plain, None
    return plain, cached_maps(extractor, Mirrored(dense), cache, max_bad_frac=max_bad_frac, quiet=quiet)


@torch.no_grad()
def patch_maps(extractor: FeatureExtractor, images: Tensor) -> Tensor:
    """``[N, D, h, w]`` float32 of prepared images ``[N, C, H, W]``; sides are cut to whole patches by the backbone."""
    found = [layers[0] for layers in extractor.stream_prepared(iter(images))]
    return torch.cat([tokens.maps() for tokens in found])
