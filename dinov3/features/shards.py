"""Feature shards on disk: safetensors or npy, and beside each a small JSON file that makes it whole.

Any language with a safetensors or npy reader can read them; the JSON names the files, their sizes and hashes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from dinov3.runs.manifest import describe_file
from dinov3.system.files import flush

FORMATS = ("safetensors", "npy")


def write_shard(folder: Path, name: str, tensors: dict[str, Tensor], form: str, facts: dict[str, Any]) -> None:
    """Write ``name.safetensors``, or ``name.<tensor>.npy`` for each tensor, then ``name.json``, each complete or not at all."""
    files: dict[str, Path] = {}
    if form == "safetensors":
        files[f"{name}.safetensors"] = folder / f"{name}.safetensors.tmp"
        # not write_tensor_file: killed, that leaves a file of another name
        files[f"{name}.safetensors"].write_bytes(save({k: v.contiguous() for k, v in tensors.items()}))
    else:
        for key, tensor in tensors.items():
            files[f"{name}.{key}.npy"] = temporary = folder / f"{name}.{key}.npy.tmp"
            with temporary.open("wb") as file:
                np.save(file, tensor.numpy(), allow_pickle=False)
    entry = {"name": name, "rows": len(tensors["index"]), "files": {}, **facts}
    for final, temporary in files.items():
        entry["files"][final] = describe_file(temporary)
        flush(temporary)
        os.replace(temporary, folder / final)
    record = folder / f"{name}.json.tmp"
    record.write_text(json.dumps(entry))
    flush(record)
    os.replace(record, folder / f"{name}.json")


def shard_is_whole(folder: Path, entry: dict[str, Any]) -> bool:
    """Whether the files of ``entry`` (the content of its JSON) have the size and hash they were written with."""
    return all(
        (folder / name).is_file()
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
