"""A set of shards of random arrays in two sizes, whose patches carry the layout of the latents; and the words of a tiny run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from dinov3.generate.buckets import Bucket
from dinov3.generate.extract import FORMAT, FORMAT_VERSION, MANIFEST
from dinov3.generate.plan import Form, key_of
from dinov3.generate.shards import Sample, write_shard
from dinov3.runs.manifest import describe_file

FORM = Form("w" * 64, "p" * 16, 12, 16, 1, text_length=4, text_width=6, channels=3)
BUCKETS = {Bucket(64, 32): 13, Bucket(32, 64): 7}  # size -> samples
KEY = {"weights": FORM.weights, "preproc_hash": FORM.preproc_hash, "width": 12, "patch": 16, "pool": 1}
KEY |= {"text": "hash:4:6", "text_length": 4, "text_width": 6, "latents": "pixels", "channels": 3}
A_SHARD = 5  # samples
TINY = (
    *("optim.epochs=2", "optim.lr=0.01", "train.log_every=1", "train.device=cpu"),
    *("transformer.width=16", "transformer.depth=1", "transformer.heads=2", "checkpointing.period=3"),
    *("validation.samples=4", "validation.steps=2", "train.num_workers=1"),
)


def sample(index: int, bucket: Bucket) -> Sample:
    """The latent is one colour a token; the patch of that token has the colour in its first channels."""
    rng = np.random.default_rng(index)
    rows, cols = FORM.grid(bucket)
    colours = rng.standard_normal((3, rows, cols)) * 2 + 1
    patches = rng.standard_normal((rows * cols, 12)) * 0.1
    patches[:, :3] += colours.reshape(3, -1).T
    mask = (np.arange(4) < 1 + index % 4).astype(np.uint8)
    facts = FORM.facts(key_of(index), f"image {index}", bucket, f"word{index}")
    arrays = (rng.standard_normal(12), patches, rng.standard_normal((4, 6)))
    latent = colours.repeat(2, 1).repeat(2, 2)
    return Sample(key_of(index), facts, *(a.astype(np.float16) for a in arrays), mask, latent.astype(np.float16))


def shard_set(folder: Path, counts: dict[Bucket, int] = BUCKETS) -> Path:
    """A finished set."""
    shards, index = [], 0
    for bucket, count in sorted(counts.items()):
        (folder / bucket.folder).mkdir(parents=True)
        for number, first in enumerate(range(0, count, A_SHARD)):
            rows = min(A_SHARD, count - first)
            name = f"{bucket.folder}/shard-{number:06d}.tar"
            write_shard(folder / name, [sample(index + i, bucket) for i in range(rows)])
            index += rows
            shards.append({"name": name, "rows": rows, **describe_file(folder / name)})
    manifest = {"format": FORMAT, "format_version": FORMAT_VERSION, "key": KEY, "rows": index, "shards": shards}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def words(shards: Path, batch: int = 4) -> list[str]:
    """Overrides of a run of ten steps."""
    return [*TINY, f"train.dataset_path={shards}", f"train.batch_size_per_gpu={batch}"]
