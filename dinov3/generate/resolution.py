"""Do features depend on the size an image is shown at? The same images at every size, their tokens compared place by place.

A transformer trained on features of several sizes takes them for one language; this measures how far that is so.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from dinov3.data.decode import read_image
from dinov3.data.errors import BadImage
from dinov3.generate.buckets import Bucket, buckets_of_side
from dinov3.generate.extract import Job
from dinov3.generate.sizing import BucketPreprocess
from dinov3.system.bars import Bar
from dinov3.system.files import write_json, write_whole

FILE, PICTURE = "resolution.json", "resolution.png"


class Shift(NamedTuple):
    """Of one size, means over images: cosines with the tokens at the first size."""

    bucket: str
    patch_cosine: float
    cls_cosine: float


def resolution_shift(job: Job, images: int, *, quiet: bool = False) -> list[Shift]:
    """Of ``images`` of the data set, evenly spread, at each of the job's sizes (for native sizes: the seven of 1024 px).

    Patches are brought to the grid of the first size, bilinearly. Unreadable images are passed over.
    """
    buckets = buckets_of_side(job.sizing.side or 1024, job.sizing.multiple)
    chosen = [place * len(job.source) // images for place in range(min(images, len(job.source)))]
    sums = torch.zeros(len(buckets), 2, dtype=torch.float64)
    count = 0
    with Bar(len(chosen), about="resolution", unit="images", shown=not quiet) as bar:
        for index in chosen:
            try:
                pixels = read_image(job.source, index, job.extractor.preprocess.reading)
            except BadImage:
                continue
            finally:
                bar.update()
            sums += _cosines(job, torch.from_numpy(pixels.copy()).permute(2, 0, 1), buckets)
            count += 1
    means = (sums / max(count, 1)).tolist()
    return [Shift(str(bucket), *row) for bucket, row in zip(buckets, means, strict=True)]


def _cosines(job: Job, picture: Tensor, buckets: Sequence[Bucket]) -> Tensor:
    """``[sizes, 2]``: of patches, of class tokens."""
    plain, extractor = job.extractor.preprocess, copy.copy(job.extractor)
    assert isinstance(plain, BucketPreprocess)
    found: list[Tensor] = []
    for bucket in buckets:
        extractor.preprocess = plain.forced(bucket)
        (tokens,) = extractor.extract_each([picture])
        if not found:
            first, grid = tokens, tokens.grid
        maps = F.interpolate(tokens.maps(), grid, mode="bilinear", align_corners=False).flatten(2).mT  # [1, N, D]
        patch = F.cosine_similarity(maps, first.patches, dim=-1).mean()
        found.append(torch.stack([patch, F.cosine_similarity(tokens.cls, first.cls).mean()]))
    return torch.stack(found).double()


def write_shift(out: Path, shifts: Sequence[Shift], images: int) -> None:
    """``resolution.json`` and ``resolution.png`` beside the shards."""
    write_json(out / FILE, {"images": images, "reference": shifts[0].bucket, "sizes": [s._asdict() for s in shifts]})
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    places = range(len(shifts))
    axes.bar([p - 0.2 for p in places], [s.patch_cosine for s in shifts], 0.4, label="patches, place by place")
    axes.bar([p + 0.2 for p in places], [s.cls_cosine for s in shifts], 0.4, label="class token")
    axes.set_xticks([*places], [s.bucket for s in shifts], fontsize=8)
    axes.set_ylabel(f"cosine with {shifts[0].bucket}")
    axes.set_ylim(min(0.0, *(min(s[1:]) for s in shifts)), 1.02)
    axes.legend(fontsize=8, loc="lower left")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    write_whole(out / PICTURE, content.getvalue())
