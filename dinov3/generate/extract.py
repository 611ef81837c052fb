"""Features of a data set at each image's own shape, in tar shards: ``dinov3 dit extract``.

``plan.json`` comes first and says which image goes into which shard; each shard is written whole, with a small JSON beside
it; ``manifest.json`` comes last. A killed call goes on behind the last whole shard, and leaves the same files as another.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinov3.data.bad_samples import BadSample
from dinov3.data.errors import TooManyBadSamples
from dinov3.data.sources import Source
from dinov3.distributed import context
from dinov3.distributed.agreement import all_processes_or_none, main_decides
from dinov3.distributed.collectives import gather_objects
from dinov3.features.cache import weights_digest
from dinov3.features.extract import FeatureExtractor
from dinov3.features.source_images import SourceImages
from dinov3.generate.buckets import Bucket
from dinov3.generate.errors import GenerateError
from dinov3.generate.inputs.files import names_of
from dinov3.generate.inputs.open import Inputs
from dinov3.generate.plan import FEATURES_ALONE, PLAN_FORM, Form, Plan, ShardPlan, facts_of, make_plan
from dinov3.generate.shards import Sample, write_shard
from dinov3.generate.sizing import Sizing, bucketed, digest
from dinov3.runs.lock import RunLock
from dinov3.runs.manifest import describe_file
from dinov3.system.bars import Bar
from dinov3.system.files import remove_half_written, write_json
from dinov3.system.json_file import JsonError, Maybe, read_object

FORMAT, FORMAT_VERSION = "dinov3-dit-features", 1
MANIFEST, PLAN = "manifest.json", "plan.json"
SHARD_MB = 1000


@dataclass(frozen=True)
class Job:
    """All that a set depends on. ``extractor`` resizes to buckets."""

    extractor: FeatureExtractor
    source: Source
    sizing: Sizing
    form: Form
    key: dict[str, Any]
    cap: int  # bytes of a shard
    inputs: Inputs = FEATURES_ALONE

    @classmethod
    def of(
        cls,
        extractor: FeatureExtractor,
        source: Source,
        sizing: Sizing,
        cap: int = SHARD_MB * 10**6,
        inputs: Inputs = FEATURES_ALONE,
    ) -> Job:
        """A job with an extractor whose preprocessing is replaced by that of ``sizing``."""
        shaped = copy.copy(extractor)
        shaped.preprocess = bucketed(extractor.preprocess, sizing)
        backbone = extractor.backbone
        preprocess = shaped.preprocess.describe()
        own = {
            **{"weights": weights_digest(backbone), "preproc_hash": digest(preprocess), "width": backbone.embed_dim},
            **{"patch": extractor.preprocess.patch, "pool": sizing.pool, **inputs.describe()},
        }
        key = {
            **own,
            "preprocess": preprocess,
            "max_stretch": sizing.max_stretch,
            "dataset": source.fingerprint(),
            "version": source.version(),  # two folders may hold files of the same names
            "images": len(source),
            "compute_dtype": extractor.dtype,
            "dtype": "fp16",
            "shard_bytes": cap,
        }
        return cls(shaped, source, sizing, Form.of_key(own), key, cap, inputs)

    def plan(self, *, quiet: bool = False) -> Plan:
        """Read the size of every image."""
        with Bar(len(self.source), about="sizes", unit="images", shown=not quiet) as bar:
            return make_plan(
                self.source,
                self.sizing,
                self.form,
                self.cap,
                inputs=self.inputs,
                threads=self.extractor.threads,
                count=bar.update,
            )


def extract(job: Job, out: Path, *, max_bad_frac: float = 0.01, quiet: bool = False) -> dict[str, Any]:
    """Compute what is not there yet in ``out``; returns the manifest, with ``computed``: images that went through the backbone.

    Several processes share the shards. Unreadable images are left out and listed; above ``max_bad_frac`` of all the call
    ends with TooManyBadSamples. Raises GenerateError when ``out`` holds another set, RunLocked when somebody fills it.
    """
    with RunLock(out):
        main_decides(lambda: _prepare(job, out, max_bad_frac, quiet=quiet))
        plan = all_processes_or_none(lambda: _read_plan(out).plan)
        own = all_processes_or_none(lambda: _fill(job, plan, out, quiet=quiet))
        computed = sum(gather_objects(own))
        main_decides(lambda: _finish(job, plan, out, max_bad_frac))
    manifest = read_object(out / MANIFEST)
    return {**manifest, "computed": computed}


RECORD = {  # what stands beside a shard
    "name": str,
    "rows": int,
    "file": Maybe({"size": int, "sha256": str}),
    "skipped": [{"name": str, "reason": str}],
}


@dataclass(frozen=True)
class _StoredPlan:
    key: dict[str, Any]
    plan: Plan


def _read_plan(out: Path) -> _StoredPlan:
    try:
        content = read_object(out / PLAN, {"key": dict, "plan": PLAN_FORM})
        return _StoredPlan(content["key"], Plan.from_json(content["plan"]))
    except JsonError as error:
        raise GenerateError(f"{out / PLAN}: damaged; remove the folder, or give another --out") from error


def _prepare(job: Job, out: Path, max_bad_frac: float, *, quiet: bool) -> None:
    """Remove what a killed call left half-written, and see to it that there is a plan, of this job."""
    for folder in (out, *out.glob("bucket_*")):
        remove_half_written(folder)
    if (out / PLAN).is_file():
        before = _read_plan(out).key
        if other := sorted(name for name in {*before, *job.key} if before.get(name) != job.key.get(name)):
            raise GenerateError(f"{out}: holds features that differ in {', '.join(other)}: give another --out")
        return
    if (out / MANIFEST).is_file() or any(out.glob("bucket_*/*.tar")):
        raise GenerateError(f"{out}: holds shards without {PLAN}: give another --out")
    plan = job.plan(quiet=quiet)
    _check_share(plan.unreadable, len(job.source), max_bad_frac)
    write_json(out / PLAN, {"key": job.key, "plan": plan.to_json()}, indent=None)


def _check_share(unreadable: list[BadSample], images: int, max_bad_frac: float) -> None:
    if len(unreadable) > max_bad_frac * images:
        raise TooManyBadSamples(
            f"{len(unreadable)} of {images} images are unreadable, the first {unreadable[0].name}: {unreadable[0].reason}; "
            f"mend the data or raise --max-bad-frac ({max_bad_frac:g})"
        )


def _fill(job: Job, plan: Plan, out: Path, *, quiet: bool) -> int:
    """Write the shards of this process that are not there; returns the number of their images."""
    world, rank = context.world_size(), context.rank()
    missing = [shard for shard in plan.shards[rank::world] if not is_whole(out, record_of(out, shard))]
    images = sum(len(shard.indices) for shard in missing)
    there = sum(len(shard.indices) for shard in plan.shards[rank::world]) - images
    with Bar(there + images, about="features", unit="images", shown=not quiet and context.is_main()) as bar:
        bar.update(there)
        for shard in missing:
            _write(job, shard, out, bar.update)
    return images


def record_path(out: Path, shard: ShardPlan) -> Path:
    """The JSON beside a shard."""
    return out / Path(shard.name).with_suffix(".json")


def record_of(out: Path, shard: ShardPlan) -> dict[str, Any] | None:
    """What stands beside a shard; None when it is not there or damaged."""
    try:
        found = read_object(record_path(out, shard), RECORD)
    except (OSError, JsonError):
        return None
    return found if found["name"] == shard.name else None


def is_whole(out: Path, record: dict[str, Any] | None) -> bool:
    """Whether the shard has the size and hash it was written with, or is rightly absent."""
    if record is None:
        return False
    path, file = out / record["name"], record.get("file")
    if file is None:
        return not path.exists()
    return path.is_file() and path.stat().st_size == file["size"] and describe_file(path) == file


def _write(job: Job, shard: ShardPlan, out: Path, count: Callable[[int], object]) -> None:
    path = out / shard.name
    path.parent.mkdir(parents=True, exist_ok=True)
    record_path(out, shard).unlink(missing_ok=True)
    skipped: list[BadSample] = []
    rows = write_shard(path, _samples(job, shard, skipped, count))
    if not rows:  # WebDataset takes an empty shard for a mistake
        path.unlink()
    record = {"name": shard.name, "rows": rows, "file": describe_file(path) if rows else None}
    write_json(record_path(out, shard), {**record, "skipped": [asdict(bad) for bad in skipped]}, indent=None)


def _samples(job: Job, shard: ShardPlan, skipped: list[BadSample], count: Callable[[int], object]) -> Iterator[Sample]:
    images = SourceImages(job.extractor, job.source, shard.indices)
    grid = shard.bucket.grid(job.form.patch)
    latents: deque[NDArray[np.float16] | None] = deque()  # of the images whose tokens are still to come
    seen = _with_latents(job, images, shard.bucket, latents)
    for position, (tokens,) in enumerate(job.extractor.stream_prepared(seen)):
        count(1)
        index, latent = images.kept[position], latents.popleft()
        src = job.source.name(index)
        if tokens.grid != grid:
            skipped.append(BadSample(src, "its header tells another size than its pixels have"))
            continue
        cls, patches = tokens.cls[0], pooled(tokens.patches[0], grid, job.form.pool)
        facts = facts_of(job.source, job.form, job.inputs, index, shard.bucket)
        words, mask = (None, None) if job.inputs.text is None else job.inputs.text.of(names_of(index, src))
        yield Sample(facts["image_id"], facts, half(cls, src), half(patches, src), words, mask, latent)
    count(len(images.skipped))
    skipped.extend(images.skipped)


def _with_latents(
    job: Job, images: SourceImages, bucket: Bucket, latents: deque[NDArray[np.float16] | None]
) -> Iterator[Tensor]:
    """The images, unchanged; their latents go into ``latents``."""
    preprocess, given = job.extractor.preprocess, job.inputs.latents
    mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (preprocess.mean, preprocess.std))
    for image in images:
        wrong_size = image.shape[1:] != (bucket.height, bucket.width)  # its tokens tell, and it is left out
        if given is None or wrong_size:
            latents.append(None)
        else:
            name = job.source.name(images.kept[-1])
            seen = (image * std + mean).clamp(0, 1)
            latents.append(given.of(names_of(images.kept[-1], name), seen, bucket.latent()))
        yield image


def pooled(patches: Tensor, grid: tuple[int, int], pool: int) -> Tensor:
    """Means over ``pool x pool`` neighbours of ``patches [rows * cols, D]``, row by row; both sides are multiples of it."""
    rows, cols = grid
    blocks = patches.reshape(rows // pool, pool, cols // pool, pool, -1)
    return patches if pool == 1 else blocks.mean((1, 3)).flatten(0, 1)


def half(values: Tensor, src: str) -> np.ndarray[Any, np.dtype[np.float16]]:
    """fp16. GenerateError, naming the image, where that is not finite."""
    found = values.half()
    if not found.isfinite().all():
        raise GenerateError(
            f"{src}: its features are not finite in fp16 (largest {float(values.abs().max()):g}): other weights?"
        )
    return np.asarray(found.numpy())


def _finish(job: Job, plan: Plan, out: Path, max_bad_frac: float) -> None:
    """Write the manifest when all shards are there."""
    records = [record_of(out, shard) for shard in plan.shards]
    whole = [record for record in records if record is not None]
    if len(whole) < len(records):
        raise GenerateError(f"{out}: a shard has vanished while others were written: run the command again")
    unreadable = [
        *plan.unreadable,
        *(BadSample(bad["name"], bad["reason"]) for record in whole for bad in record["skipped"]),
    ]
    _check_share(unreadable, len(job.source), max_bad_frac)
    rows: dict[str, int] = {}
    for shard, record in zip(plan.shards, whole, strict=True):
        rows[str(shard.bucket)] = rows.get(str(shard.bucket), 0) + record["rows"]
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "key": job.key,
        "rows": sum(rows.values()),
        "buckets": rows,
        "stretch": plan.stretch,
        "unreadable": [asdict(bad) for bad in unreadable],
        "too_long": [asdict(bad) for bad in plan.too_long],
        "incomplete": [asdict(bad) for bad in plan.incomplete],
        "shards": [{"name": r["name"], "rows": r["rows"], **r["file"]} for r in whole if r["file"]],
    }
    write_json(out / MANIFEST, manifest)
