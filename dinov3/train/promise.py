"""Can anything be learned from these images? Asked of a few of them before a run begins."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from dinov3.config.schema import Config
from dinov3.data.bad_samples import BadSample
from dinov3.data.decode import Reading, read_stored, size_of
from dinov3.data.errors import BadImage, DataError
from dinov3.data.sources import Source
from dinov3.data.sources.mixture import title
from dinov3.eval.online.scene import spread

LOOKED_AT = 32  # images: a share of a quarter shows in so few
FEW = 100  # images below which a run is warned: below it features of pretraining are those of single images
MANY = 0.1  # share of unreadable images that is said even where more are allowed: a recipe allows what it finds


class Sample(NamedTuple):
    """What a few images, evenly spread over a data set, are."""

    looked_at: int
    distinct: int  # of those that can be read
    largest: tuple[int, int]  # (height, width) of the one with the longest side, in px
    bad: list[BadSample]


def sample(source: Source, reading: Reading) -> Sample:
    """Sizes by the header, contents by a hash."""
    contents: set[bytes] = set()
    bad: list[BadSample] = []
    largest, chosen = (0, 0), spread(len(source), LOOKED_AT)
    for index in chosen:
        try:
            stored = read_stored(source, index)
            size = size_of(stored, reading)
        except BadImage as error:
            bad.append(BadSample(source.name(index), str(error)))
            continue
        contents.add(hashlib.blake2b(stored if isinstance(stored, bytes) else stored.tobytes()).digest())
        largest = max(largest, size, key=max)
    return Sample(len(chosen), len(contents), largest, bad)


def doubts(cfg: Config, source: Source) -> list[str]:
    """Lines of the start-up block about images that promise little. DataError for those that can teach nothing: one image,
    be it under several names, or images of a single patch."""
    found, name = sample(source, Reading.from_config(cfg)), title(cfg.train.dataset_path)
    readable = found.looked_at - len(found.bad)
    if found.distinct == 1 and found.looked_at == len(source):
        same = "" if len(source) == 1 else f"{len(source)} files, and "
        alone = "1 image" if readable == 1 else f"all {readable} images are the same"
        raise DataError(f"{name}: {same}{alone}: nothing can be learned from one; give others beside it")
    height, width = found.largest
    if readable and max(found.largest) <= cfg.student.patch_size and cfg.student.arch.startswith("vit"):
        raise DataError(
            f"{name}: images of {width} x {height} px at most, no more than one patch (student.patch_size "
            f"{cfg.student.patch_size}): nothing can be learned from them; give larger ones, or take a smaller patch"
        )
    lines = []
    if len(source) < FEW:
        lines.append(
            f"warning    only {len(source)} images: features want thousands; use weights that are trained already"
        )
    if found.distinct == 1 and readable > 1:
        lines.append(f"warning    {readable} of {len(source):,} images were looked at, and all are the same")
    if len(found.bad) > min(cfg.data.max_bad_frac, MANY) * found.looked_at:
        first = found.bad[0]
        lines.append(
            f"warning    {len(found.bad)} of {found.looked_at} images that were looked at cannot be read, as {first.name}: "
            f"{first.reason} (`dinov3 data check` lists them); the run goes on with up to {cfg.data.max_bad_frac:.1%} "
            "(data.max_bad_frac)"
        )
    return lines
