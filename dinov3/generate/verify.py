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
from dinov3.generate.shards import FIELDS, Sample, read_shard
from dinov3.runs.manifest import describe_file
from dinov3.system.json_file import JsonError, as_form, read_object

SHARD = re.compile(r"bucket_([1-9]\d{0,5})x([1-9]\d{0,5})/shard-\d{6,}\.tar")
AGAIN = "run `dinov3 dit extract` again"
KEY = {"weights": str, "preproc_hash": str, "width": int, "patch": int, "pool": int}
OPTIONAL = ("text_length", "text_width", "channels")  # of a key: sets of images alone do not have them
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
    key: dict[str, Any]  # all that the set depends on

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
        key = content["key"]
        as_form({name: key[name] for name in OPTIONAL if name in key}, {name: int for name in OPTIONAL if name in key})
        shards = [_shard(row) for row in content["shards"]]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise GenerateError(f"{folder}: no {MANIFEST}: unfinished, or not a set of shards; {AGAIN}") from error
    except JsonError as error:
        raise GenerateError(f"{path}: damaged ({error}); {AGAIN}") from error
    return Contents(Form.of_key(key), shards, dict(key))


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
        check_values(path, sample)
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
    arrays, wanted = sample.arrays(), form.arrays(bucket)
    if lacking := [name for name in wanted if name not in arrays]:
        raise GenerateError(
            f"{where}: no {lacking[0]}, which the set has: of another set? Move the shard away; {AGAIN}"
        )
    for name, array in arrays.items():
        if array.shape != wanted.get(name):
            raise GenerateError(f"{where}: {_odd_shape(name, array.shape, wanted.get(name), grid, bucket)}; {AGAIN}")


def _odd_shape(
    name: str, found: tuple[int, ...], wanted: tuple[int, ...] | None, grid: tuple[int, int], bucket: Bucket
) -> str:
    if name == FIELDS[2]:
        return (
            f"patches {found}, the grid {grid[0]} x {grid[1]} of {bucket} has {wanted}: "
            "of a crop, or with other tokens among them"
        )
    if name == FIELDS[1]:
        return f"a class token {found}, not {wanted}"
    return f"{name} {found}, where {bucket} has {wanted or 'none'}"


def check_values(path: Path, sample: Sample) -> None:
    """Raise GenerateError for numbers that are not finite."""
    if not all(np.isfinite(array).all() for array in sample.arrays().values()):
        raise GenerateError(f"{path}: sample {sample.key}: values that are not finite; {AGAIN}")
