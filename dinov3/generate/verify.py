"""Is a folder of shards one set, whole, and aligned with its images? ``dinov3 dit verify``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dinov3.generate.buckets import Bucket
from dinov3.generate.errors import GenerateError
from dinov3.generate.extract import FORMAT, FORMAT_VERSION, MANIFEST
from dinov3.generate.plan import Form
from dinov3.generate.shards import Sample, read_shard
from dinov3.runs.manifest import describe_file
from dinov3.system.json_file import JsonError, as_form, read_object

SHARD = re.compile(r"bucket_([1-9]\d{0,5})x([1-9]\d{0,5})/shard-\d{6,}\.tar")
AGAIN = "run `dinov3 dit extract` again"
KEY = {"weights": str, "preproc_hash": str, "width": int, "patch": int, "pool": int}
SHARD_ROW = {"name": str, "rows": int, "size": int, "sha256": str}


@dataclass(frozen=True)
class Shard:
    """A line of the manifest."""

    name: str
    bucket: Bucket
    rows: int
    file: dict[str, Any]  # size and sha256


@dataclass(frozen=True)
class Contents:
    """What a manifest says."""

    form: Form
    shards: list[Shard]

    @property
    def rows(self) -> int:
        """Samples."""
        return sum(shard.rows for shard in self.shards)


def read_manifest(folder: Path) -> Contents:
    """The manifest of a finished set. Raises GenerateError."""
    path = folder / MANIFEST
    try:
        content = read_object(path, {"format": str, "format_version": int})
        if (content["format"], content["format_version"]) != (FORMAT, FORMAT_VERSION):
            raise GenerateError(
                f"{path}: {content['format']!r} version {content['format_version']!r}; this program reads {FORMAT} {FORMAT_VERSION}"
            )
        as_form(content, {"key": KEY, "shards": [SHARD_ROW]})
        shards = [_shard(row) for row in content["shards"]]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise GenerateError(f"{folder}: no {MANIFEST}: unfinished, or not a set of shards; {AGAIN}") from error
    except JsonError as error:
        raise GenerateError(f"{path}: damaged ({error}); {AGAIN}") from error
    return Contents(Form(**{name: content["key"][name] for name in KEY}), shards)


def _shard(row: dict[str, Any]) -> Shard:
    match = SHARD.fullmatch(row["name"])
    if match is None:
        raise JsonError(f"a shard called {row['name'][:80]!r}")
    file = {"size": row["size"], "sha256": row["sha256"]}
    return Shard(row["name"], Bucket(int(match[1]), int(match[2])), row["rows"], file)


def verify(folder: Path) -> Contents:
    """Read every sample of every shard. GenerateError in one line: the first problem, and how many shards have one."""
    contents = read_manifest(folder)
    problems: list[str] = []
    seen: dict[str, str] = {}
    for shard in contents.shards:
        try:
            _check_shard(folder, shard, contents.form, seen)
        except GenerateError as error:
            problems.append(str(error))
    known = {shard.name for shard in contents.shards}
    strangers = sorted({path.relative_to(folder).as_posix() for path in folder.rglob("*.tar")} - known)
    problems += [f"{folder / name}: not in {MANIFEST}: of another set? Move it away" for name in strangers]
    if problems:
        more = f" (and {len(problems) - 1} more shards with problems)" if len(problems) > 1 else ""
        raise GenerateError(problems[0] + more)
    return contents


def _check_shard(folder: Path, shard: Shard, form: Form, seen: dict[str, str]) -> None:
    path = folder / shard.name
    rows = 0
    for sample in read_shard(path):
        check_sample(path, sample, shard.bucket, form)
        if sample.key in seen:
            raise GenerateError(f"{path}: sample {sample.key} is in {seen[sample.key]} too; {AGAIN}")
        seen[sample.key] = shard.name
        rows += 1
    if rows != shard.rows:
        raise GenerateError(f"{path}: {rows} samples where {MANIFEST} says {shard.rows}: cut; {AGAIN}")
    if describe_file(path) != shard.file:
        raise GenerateError(f"{path}: not as it was written (its hash differs); {AGAIN}")


def check_sample(path: Path, sample: Sample, bucket: Bucket, form: Form) -> None:
    """Raise GenerateError unless the sample is of this set, and its patches are those of its bucket's grid."""
    where = f"{path}: sample {sample.key}"
    facts, grid = sample.facts, form.grid(bucket)
    if facts.get("weights") != form.weights:
        raise GenerateError(f"{where}: features of another backbone than the set's: move the shard away, and {AGAIN}")
    if facts.get("preproc_hash") != form.preproc_hash:
        raise GenerateError(
            f"{where}: features of another preprocessing than the set's: move the shard away, and {AGAIN}"
        )
    if facts.get("image_id") != sample.key:
        raise GenerateError(f"{where}: its json is of image {facts.get('image_id')}: misaligned; {AGAIN}")
    if facts.get("bucket") != str(bucket) or facts.get("grid") != list(grid):
        raise GenerateError(
            f"{where}: of bucket {facts.get('bucket')}, grid {facts.get('grid')}, in a shard of {bucket}; {AGAIN}"
        )
    wanted = (grid[0] * grid[1], form.width)
    if sample.patches.shape != wanted:
        raise GenerateError(
            f"{where}: patches {sample.patches.shape}, the grid {grid[0]} x {grid[1]} of {bucket} has {wanted}: "
            f"of a crop, or with other tokens among them; {AGAIN}"
        )
    if sample.cls.shape != (form.width,):
        raise GenerateError(f"{where}: a class token {sample.cls.shape}, not ({form.width},); {AGAIN}")
    if not (np.isfinite(sample.cls).all() and np.isfinite(sample.patches).all()):
        raise GenerateError(f"{where}: values that are not finite; {AGAIN}")
