"""Weight files of other programs, read without running anything that is in them."""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dinov3.weights.torch_archive import DamagedArchive, check_archive

INDEX = "model.safetensors.index.json"  # of a Hugging Face folder whose weights are in several files
SINGLE = "model.safetensors"
CONFIG = "config.json"
OURS = "dinov3"  # the key of our description in the metadata of a safetensors file


class WeightsError(Exception):
    """A weight file cannot be used; the message names the file and says why."""


@dataclass(frozen=True)
class RawWeights:
    """What files hold, names untouched."""

    path: Path  # as it was given
    files: list[Path]  # those the tensors came from
    tensors: dict[str, Tensor]
    config: dict[str, Any] | None = None  # config.json beside them
    metadata: dict[str, str] = field(default_factory=dict)  # of a safetensors file

    def sha256(self) -> str:
        """Of the bytes of all ``files``, one after the other."""
        total = hashlib.sha256()
        for path in self.files:
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    total.update(chunk)
        return total.hexdigest()


def read_weights(path: Path) -> RawWeights:
    """The tensors at ``path``: a ``.safetensors`` or a torch file, or a folder with ``model.safetensors`` in it.

    Torch files (``.pth``, ``.pt``, ``.bin``) are read with ``weights_only=True``: one that holds anything but tensors
    and plain containers is refused, not run. DINOv3's ``{"teacher": {...}}`` is opened. Of a folder only safetensors
    are read, in one file or in several with an index. Raises WeightsError.
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file or folder")
    beside = path.with_name(CONFIG)
    config = read_json(beside) if path.name == SINGLE and beside.is_file() else None
    if path.suffix == ".safetensors":
        tensors, metadata = _read_safetensors(path)
        return RawWeights(path, [path], _checked(tensors, path), config, metadata)
    return RawWeights(path, [path], _checked(_read_torch(path), path), config)


def _read_folder(folder: Path) -> RawWeights:
    if (folder / INDEX).is_file():
        names = sorted(set(_weight_map(folder / INDEX).values()))
    elif (folder / SINGLE).is_file():
        names = [SINGLE]
    else:
        raise WeightsError(
            f"{folder}: no backbone.safetensors in it, no {SINGLE} and no {INDEX}: "
            "give a run, a checkpoint, a Hugging Face folder or a weight file"
        )
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for name in names:
        part, metadata = _read_safetensors(folder / name)
        if twice := sorted(set(part) & set(tensors)):
            raise WeightsError(f"{folder / name}: {twice[0]} is in two files")
        tensors |= part
    if (folder / INDEX).is_file() and set(tensors) != set(_weight_map(folder / INDEX)):
        raise WeightsError(f"{folder / INDEX}: names other tensors than its files hold: download the folder again")
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else None
    return RawWeights(folder, [folder / n for n in names], _checked(tensors, folder), config, metadata)


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor name to file name; files lie in the folder itself."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise WeightsError(f"{index}: has no weight_map")
    for file in names.values():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise WeightsError(f"{index}: names {file!r}, which is not a safetensors file in this folder")
    return names


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds a table; WeightsError for anything else."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: not a JSON table")
    return content


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file: {error}") from error


def _read_torch(path: Path) -> Any:
    try:
        check_archive(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except DamagedArchive as error:
        raise WeightsError(f"{path}: {error}") from error
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{path}: not a weight file, or holds more than tensors; it was not opened") from error
    except (RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError, OSError) as error:
        raise WeightsError(f"{path}: not a readable weight file: {type(error).__name__}") from error
    if isinstance(content, dict) and isinstance(content.get("teacher"), dict):
        content = content["teacher"]
    if not isinstance(content, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()
    ):
        raise WeightsError(f"{path}: expected a table of tensors, or one under 'teacher'")
    return content


def _checked(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """As they are; WeightsError unless all are finite floats, or 8-bit integers as ``dinov3 compress`` writes them."""
    if not tensors:
        raise WeightsError(f"{path}: holds no tensor")
    for name, tensor in tensors.items():
        number = tensor.is_floating_point() or tensor.dtype == torch.int8
        if tensor.layout != torch.strided or not number or not bool(tensor.isfinite().all()):
            raise WeightsError(f"{path}: {name} is not a plain tensor of finite floats")
    return tensors
