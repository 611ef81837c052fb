"""Feature shards on disk: safetensors or npy, and beside each a small JSON file that makes it whole.

Any language with a safetensors or npy reader can read them; the JSON names the files, their sizes and hashes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from dinov3.runs.manifest import describe_file
from dinov3.system.files import replacing, write_json
from dinov3.system.json_file import JsonError, read_object

FORMATS = ("safetensors", "npy")
SHARD = {"name": str, "rows": int, "files": {str: {"size": int, "sha256": str}}}  # what stands beside a shard
RECORD = {**SHARD, "skipped": [{"name": str, "reason": str}]}


def write_shard(
    folder: Path, name: str, tensors: dict[str, Tensor], form: str, facts: dict[str, Any]
) -> dict[str, Any]:
    """Write ``name.safetensors``, or ``name.<tensor>.npy`` for each tensor, then ``name.json``, each complete or not at all;
    returns the content of the last."""
    entry = {"name": name, "rows": len(tensors["index"]), "files": {}, **facts}
    for file, content in _files(name, tensors, form):
        with replacing(folder / file) as fresh:
            fresh.write_bytes(content)
            entry["files"][file] = describe_file(fresh)
    write_json(folder / f"{name}.json", entry, indent=None)
    return entry


def _files(name: str, tensors: dict[str, Tensor], form: str) -> Iterator[tuple[str, bytes | memoryview]]:
    if form == "safetensors":
        yield f"{name}.safetensors", save({k: v.contiguous() for k, v in tensors.items()})
        return
    for key, tensor in tensors.items():
        memory = io.BytesIO()
        np.save(memory, tensor.numpy(), allow_pickle=False)
        yield f"{name}.{key}.npy", memory.getbuffer()


def read_record(folder: Path, name: str) -> dict[str, Any] | None:
    """What stands beside the shard ``name``; None when it is not there, or damaged: then the shard is not there either."""
    try:
        record = read_object(folder / f"{name}.json", RECORD)
    except (OSError, JsonError):
        return None
    return record if record["name"] == name else None


def shard_is_whole(folder: Path, entry: dict[str, Any]) -> bool:
    """Whether the files of ``entry`` (the content of its JSON) have the size and hash they were written with."""
    return all(
        Path(name).name == name  # a forged entry leads nowhere else
        and (folder / name).is_file()
        and (folder / name).stat().st_size == file["size"]  # tells at once most of what is wrong
        and describe_file(folder / name) == file
        for name, file in entry["files"].items()
    )


def read_shard(folder: Path, entry: dict[str, Any]) -> dict[str, Tensor]:
    """Tensors by name."""
    tensors: dict[str, Tensor] = {}
    for file in entry["files"]:
        path = folder / file
        if path.suffix == ".npy":
            tensors[path.name.split(".")[1]] = torch.from_numpy(np.load(path, allow_pickle=False))
        else:
            tensors |= load_file(path)
    return tensors
