"""Patch features of a frozen backbone: of a whole set from the cache on disk, or of tensors as a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinov3.data.sources.source import Source
from dinov3.dense.sets import DenseSet, Mirrored
from dinov3.features.cache import FeatureKind, cached_features
from dinov3.features.errors import FeatureError
from dinov3.features.extract import FeatureExtractor
from dinov3.features.source_images import SourceImages
from dinov3.system.bars import Counting, counted


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


# Where features are kept: a folder, shared by all processes and for good; or a dict, by this process alone.
Cache = Path | dict[str, Maps]


def maps_of(
    extractor: FeatureExtractor, source: Source, cache: Cache, *, max_bad_frac: float, counting: Counting = counted
) -> Maps:
    """Last layer patches of a whole set at one size, computed once, the same numbers whichever ``cache``.

    FeatureError without a fixed size, and when no image can be read. With a folder also TooManyBadSamples; with a dict the
    caller judges ``skipped``.
    """
    if extractor.preprocess.size is None:
        raise FeatureError("--size native gives grids of many sizes: give px, for example --size 224")
    if isinstance(cache, dict):
        key = f"{source.fingerprint()} {source.version()}"
        if key not in cache:
            cache[key] = _computed(extractor, source, counting)
        return cache[key]
    kind = FeatureKind(pool="patches", dtype="fp16")
    found = cached_features(extractor, source, cache, kind, max_bad_frac=max_bad_frac)
    shards = [shard for shard in found.shards() if len(shard["index"])]
    if not shards:
        raise FeatureError("no image of this set can be read")
    index = torch.cat([shard["index"] for shard in shards]).tolist()
    grid = shards[0]["grid"][0].tolist()
    return Maps(index, _as_maps([shard["patches"] for shard in shards], grid), list(found.manifest["skipped"]))


def _computed(extractor: FeatureExtractor, source: Source, counting: Counting) -> Maps:
    """By this process alone, while others may wait for it: nothing in here is agreed on with them."""
    with counting("features", len(source), "images") as count:
        images = SourceImages(extractor, source, range(len(source)), count)
        tokens = [layers[0] for layers in extractor.stream_prepared(images)]
    skipped = [asdict(bad) for bad in images.skipped]
    if not tokens:
        reason = f": {skipped[0]['name']}: {skipped[0]['reason']}" if skipped else ""
        raise FeatureError(f"no image of this set can be read{reason}")
    return Maps(images.kept, _as_maps([t.patches.half() for t in tokens], tokens[0].grid), skipped)


def _as_maps(patches: Sequence[Tensor], grid: Sequence[int]) -> Tensor:
    """``[N, D, h, w]`` of float16 patches ``[n, P, D]``."""
    return torch.cat(list(patches)).mT.unflatten(2, (grid[0], grid[1]))


def views_of(
    extractor: FeatureExtractor,
    dense: DenseSet,
    cache: Cache,
    *,
    flip: bool,
    max_bad_frac: float,
    counting: Counting = counted,
) -> tuple[Maps, Maps | None]:
    """Features of a set and, with ``flip``, of its mirrored images in the same order."""
    plain = maps_of(extractor, dense, cache, max_bad_frac=max_bad_frac, counting=counting)
    if not flip:
        return plain, None
    mirrored = Mirrored(dense)
    return plain, maps_of(extractor, mirrored, cache, max_bad_frac=max_bad_frac, counting=counting)


@torch.no_grad()
def patch_maps(extractor: FeatureExtractor, images: Tensor) -> Tensor:
    """``[N, D, h, w]`` float32 of prepared images ``[N, C, H, W]``; sides are cut to whole patches by the backbone.

    FloatingPointError for features that are not finite: they are like no others, and no head learns from them.
    """
    found = [layers[0] for layers in extractor.stream_prepared(iter(images))]
    maps = torch.cat([tokens.maps() for tokens in found])
    if not bool(maps.isfinite().all()):
        raise FloatingPointError("the backbone's patch features are not finite")
    return maps
