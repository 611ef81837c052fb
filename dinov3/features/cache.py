"""Features of a whole data set on disk, never mistaken for those of other weights, images or preprocessing.

``FOLDER/<key>/`` holds one set; ``key`` is a hash of the weights, the data set (its classes, and its files' places,
sizes and times of writing), the preprocessing and what is stored. Shards of consecutive images are written to a
temporary name, flushed and renamed; ``manifest.json`` comes last, so a set without it is unfinished: the next call goes
on behind its last shard.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from dinov3.data.bad_samples import BadSample, raise_limit
from dinov3.data.errors import TooManyBadSamples
from dinov3.data.sources import Source
from dinov3.distributed import context
from dinov3.engine.precision import DTYPES
from dinov3.features.errors import FeatureError
from dinov3.features.extract import FeatureExtractor, reduced
from dinov3.features.shards import FORMATS, SHARD, read_record, read_shard, shard_is_whole, write_shard
from dinov3.features.source_images import SourceImages
from dinov3.features.tokens import POOLS, Pool, Tokens
from dinov3.runs.lock import RunLock
from dinov3.system.bars import Bar
from dinov3.system.errors import first_line
from dinov3.system.files import remove_half_written, write_json
from dinov3.system.json_file import JsonError, as_form, read_object

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
FORM = {"format_version": int, "key": dict, "rows": int, "skipped": list, "shards": [SHARD]}  # what readers rely on
SHARD_BYTES = 256 * 2**20  # about; a shard is also what a killed run may have to compute again


@dataclass(frozen=True)
class FeatureKind:
    """What is stored of each image, and how."""

    pool: Pool = "cls"
    dtype: str = "fp32"  # of the file: fp32, fp16 or bf16
    format: str = "safetensors"  # or npy, which has no bf16

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("pool", self.pool, POOLS),
            ("dtype", self.dtype, DTYPES),
            ("format", self.format, FORMATS),
        ):
            if value not in choices:
                raise FeatureError(f"{name} {value!r}: choose {', '.join(choices)}")
        if self.format == "npy" and self.dtype == "bf16":
            raise FeatureError("npy has no bf16: use --dtype fp16, or --format safetensors")


class FeatureSet:
    """A finished set. Raises FeatureError when ``folder`` is not one, is damaged, or a shard is not as it was written."""

    def __init__(self, folder: Path, *, fresh: bool = False) -> None:
        self.folder = folder
        self.fresh = fresh  # computed by this call
        path = folder / MANIFEST
        if not path.is_file():
            raise FeatureError(
                f"{folder}: no {MANIFEST}: unfinished, or not a feature set; run `dinov3 features` again"
            )
        try:
            self.manifest: dict[str, Any] = read_object(path, {"format_version": int})
            if (version := self.manifest["format_version"]) != FORMAT_VERSION:
                raise FeatureError(f"{path}: format version {version}, this program reads {FORMAT_VERSION}")
            as_form(self.manifest, FORM)
        except (OSError, JsonError) as error:
            raise FeatureError(f"{path}: damaged ({error}); `dinov3 features` computes it again") from error

    def __len__(self) -> int:
        return int(self.manifest["rows"])

    def shards(self) -> Iterator[dict[str, Tensor]]:
        """The tensors of each shard: ``features [n, D]`` or ``cls``, ``storage``, ``patches``, ``grid``; ``index``, ``labels``."""
        for shard in self.manifest["shards"]:
            if not shard_is_whole(self.folder, shard):
                raise FeatureError(
                    f"{self.folder}/{shard['name']}: not as it was written; `dinov3 features` computes it again"
                )
            try:
                tensors = read_shard(self.folder, shard)
                if "index" not in tensors or tensors["index"].shape != (shard["rows"],):
                    raise ValueError("no index of its rows")
            except (OSError, EOFError, ValueError, MemoryError, SafetensorError) as error:
                raise FeatureError(f"{self.folder}/{shard['name']}: cannot be read: {first_line(error)}") from error
            yield tensors

    def damaged(self) -> list[str]:
        """Names of shards that are not as they were written."""
        return [shard["name"] for shard in self.manifest["shards"] if not shard_is_whole(self.folder, shard)]

    def pooled(self) -> tuple[Tensor, Tensor | None]:
        """``features [N, D]`` float32 in the order of the data set, and ``labels [N]`` when it has them."""
        shards = [shard for shard in self.shards() if len(shard["index"])]
        if not shards or "features" not in shards[0]:
            raise FeatureError(f"{self.folder}: holds patch tokens, not one vector an image")
        wanted = shards[0]["features"].shape[1:]
        if any("features" not in s or s["features"].shape != (*s["index"].shape, *wanted) for s in shards):
            raise FeatureError(f"{self.folder}: its shards do not fit together; `dinov3 features` computes them again")
        labels = torch.cat([s["labels"] for s in shards]) if all("labels" in s for s in shards) else None
        return torch.cat([s["features"].float() for s in shards]), labels


def weights_digest(module: nn.Module) -> str:
    """sha256 of every tensor's name, type, shape and bytes; the same for the same weights from any file."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        digest.update(plain.view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def set_key(extractor: FeatureExtractor, source: Source, kind: FeatureKind) -> dict[str, Any]:
    """Everything the numbers in a set depend on."""
    return {
        "weights": weights_digest(extractor.backbone),
        "dataset": source.fingerprint(),
        "version": source.version(),  # two folders may hold files of the same names
        "images": len(source),
        "preprocess": extractor.preprocess.describe(),
        "compute_dtype": extractor.dtype,
        **asdict(kind),
    }


def cached_features(
    extractor: FeatureExtractor,
    source: Source,
    folder: Path,
    kind: FeatureKind,
    *,
    max_bad_frac: float = 0.01,
    quiet: bool = False,
) -> FeatureSet:
    """The features of ``source`` in ``folder``, computed only when they are not there yet.

    Unreadable images are left out and listed in the manifest; above ``max_bad_frac`` of all images the call ends with
    TooManyBadSamples. Several processes share the shards. Raises RunLocked when another program fills the same set.
    """
    key = set_key(extractor, source, kind)
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    out = folder / name
    if (found := _finished(out)) is not None:
        return found
    with RunLock(out):
        context.barrier()
        if context.is_main():
            (out / MANIFEST).unlink(missing_ok=True)
            remove_half_written(out)
        context.barrier()  # what is half written from here on is another process's
        shards = list(_fill(extractor, source, out, kind, quiet=quiet))
        context.barrier()
        if context.is_main():
            _finish(out, key, shards, len(source), max_bad_frac)
        context.barrier()
    return FeatureSet(out, fresh=True)


def _fill(extractor: FeatureExtractor, source: Source, out: Path, kind: FeatureKind, *, quiet: bool) -> Iterator[str]:
    """Compute the shards of this process that are not there yet; yields the names of all shards."""
    per_shard = _rows_a_shard(extractor, source, kind)
    starts = range(0, len(source), per_shard)
    world, rank = context.world_size(), context.rank()
    with Bar(len(source), about="features", unit="images", shown=context.is_main() and not quiet) as bar:
        for number, start in enumerate(starts):
            name = f"{number:05d}"
            yield name
            rows = range(start, min(start + per_shard, len(source)))
            if number % world == rank and not _is_whole(out, name):
                tensors, skipped = _shard(extractor, source, rows, kind, bar.update)
                write_shard(
                    out, name, tensors, kind.format, {"first": start, "skipped": [asdict(bad) for bad in skipped]}
                )
            else:
                bar.update(len(rows))


def _finished(out: Path) -> FeatureSet | None:
    """The set in ``out``; None when it is unfinished, or when something of it is damaged, which is said."""
    if not (out / MANIFEST).is_file():
        return None
    try:
        found = FeatureSet(out)
    except FeatureError as error:
        log.warning("%s", error)
        return None
    if damaged := found.damaged():
        log.warning("%s: %s not as written: computed again", out, ", ".join(damaged))
        return None
    return found


def _is_whole(out: Path, name: str) -> bool:
    record = read_record(out, name)
    return record is not None and shard_is_whole(out, record)


def _shard(
    extractor: FeatureExtractor, source: Source, rows: range, kind: FeatureKind, count: Callable[[int], object]
) -> tuple[dict[str, Tensor], list[BadSample]]:
    images = SourceImages(extractor, source, rows)
    each = []
    for tokens in extractor.stream_prepared(images):
        each.append(reduced(tokens[0], kind.pool))
        count(1)
    count(len(images.skipped))
    tensors = _tensors(each, kind, same_grid=extractor.preprocess.size is not None)
    tensors["index"] = torch.tensor(images.kept, dtype=torch.int64)
    labels = [source.label(i) for i in images.kept]
    if None not in labels:
        tensors["labels"] = torch.tensor(labels, dtype=torch.int64)
    return tensors, images.skipped


def _tensors(results: list[Tokens | Tensor], kind: FeatureKind, *, same_grid: bool) -> dict[str, Tensor]:
    """Pooled: ``features [n, D]``. Patches: ``cls [n, D]``, ``storage [n, R, D]``, ``grid [n, 2]`` and ``patches``:
    ``[n, P, D]``, or, when images keep their own size, one below the other ``[sum of P, D]``."""
    dtype = DTYPES[kind.dtype]
    if not results:
        return {}
    each = [result for result in results if isinstance(result, Tokens)]
    if not each:
        return {"features": torch.cat([result for result in results if isinstance(result, Tensor)]).to(dtype)}
    patches = torch.cat([tokens.patches if same_grid else tokens.patches[0] for tokens in each])
    return {
        "cls": torch.cat([tokens.cls for tokens in each]).to(dtype),
        "storage": torch.cat([tokens.storage for tokens in each]).to(dtype),
        "patches": patches.to(dtype),
        "grid": torch.tensor([tokens.grid for tokens in each], dtype=torch.int64),
    }


def _rows_a_shard(extractor: FeatureExtractor, source: Source, kind: FeatureKind) -> int:
    """Images of about SHARD_BYTES, at least one batch; a function of what the key holds, so that a resumed run agrees."""
    width = int(getattr(extractor.backbone, "embed_dim", 1024))
    vectors = 2 if kind.pool != "patches" else 1024
    return max(64, min(SHARD_BYTES // (4 * width * vectors), 4096))


def _finish(out: Path, key: dict[str, Any], names: list[str], images: int, max_bad_frac: float) -> None:
    shards = [known for name in names if (known := read_record(out, name)) is not None]
    if len(shards) != len(names):
        raise FeatureError(f"{out}: a shard was damaged while others were computed: run `dinov3 features` again")
    skipped = [bad for shard in shards for bad in shard["skipped"]]
    if len(skipped) > max_bad_frac * images:
        raise TooManyBadSamples(
            f"{len(skipped)} of {images} images are unreadable, the first {skipped[0]['name']}: {skipped[0]['reason']}; "
            f"{raise_limit(max_bad_frac)}"
        )
    shards = [{k: v for k, v in shard.items() if k != "skipped"} for shard in shards]
    write_manifest(out, key, images - len(skipped), skipped, shards)


def write_manifest(
    out: Path, key: Mapping[str, Any], rows: int, skipped: Sequence[Mapping[str, str]], shards: Sequence[dict[str, Any]]
) -> None:
    """What makes a folder of shards a ``FeatureSet``."""
    manifest = {"format": "dinov3-features", "format_version": FORMAT_VERSION, "key": key, "rows": rows}
    write_json(out / MANIFEST, manifest | {"skipped": skipped, "shards": shards})
