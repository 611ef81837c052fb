"""Checkpoint folders of ``torch.distributed.checkpoint`` (``.metadata`` and ``*.distcp``), read without their pickle.

``.metadata`` is a pickle. It is opened by an unpickler that knows the handful of record types such a file consists of
and nothing else; entries that are not tensors, pickles again, are never opened.
"""

from __future__ import annotations

import importlib
import io
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata, TensorStorageMetadata

from dinov3.weights.files import WeightsError

METADATA = ".metadata"
DATA_FILE = re.compile(r"[\w-]+\.distcp")  # a plain name: no folder, no ..
_METADATA = "torch.distributed.checkpoint.metadata"
RECORDS = {
    **{
        (_METADATA, name): None
        for name in (
            "Metadata",
            "TensorStorageMetadata",
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "TensorProperties",
            "MetadataIndex",
            "StorageMeta",
            "_MEM_FORMAT_ENCODING",
        )
    },
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): None,
    ("torch.serialization", "_get_layout"): None,
    ("torch", "Size"): None,
    ("torch", "device"): None,
    ("collections", "OrderedDict"): None,
    ("pathlib", "Path"): None,
    ("pathlib", "PosixPath"): None,
    ("pathlib._local", "PosixPath"): None,
}


def _member(kind: Any, name: Any) -> Any:
    """What Python 3.11.0 to 3.11.3 call for the one enum of a record; in place of ``getattr``, which reaches anything."""
    if kind is not _MEM_FORMAT_ENCODING or name not in _MEM_FORMAT_ENCODING.__members__:
        raise pickle.UnpicklingError("blocked global builtins.getattr")
    return _MEM_FORMAT_ENCODING[name]


class _RecordsOnly(pickle.Unpickler):
    """Finds record types and number formats; any other name ends the reading."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in RECORDS or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return getattr(importlib.import_module(module), name)
        if (module, name) == ("builtins", "getattr"):
            return _member
        raise pickle.UnpicklingError(f"blocked global {module}.{name}")


class _SafeReader(FileSystemReader):
    """The library's reader, with the metadata that was checked."""

    def __init__(self, folder: Path, metadata: Metadata) -> None:
        super().__init__(folder)
        self._checked = metadata

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        return self._checked


def is_dcp(folder: Path) -> bool:
    """Is it a folder of this kind?"""
    return (folder / METADATA).is_file()


def read_dcp(folder: Path) -> tuple[dict[str, Tensor], list[Path]]:
    """The EMA teacher's tensors, ``backbone.*`` and heads, and the files they came from.

    Both of DINOv3's layouts: the whole training state (``model.model_ema.*``, else ``model.teacher.*``) and the sharded
    teacher (``model.backbone.*``). Raises WeightsError for anything else in the metadata, or for data files elsewhere.
    """
    metadata = _read_metadata(folder / METADATA)
    stored = {k: m for k, m in metadata.state_dict_metadata.items() if isinstance(m, TensorStorageMetadata)}
    prefixes = ("model.model_ema.", "model_ema.", "model.teacher.", "teacher.", "model.", "")
    prefix = next(p for p in prefixes if p == "" or any(k.startswith(f"{p}backbone.") for k in stored))
    chosen = {k: m for k, m in stored.items() if k.startswith(f"{prefix}{'backbone.' if prefix else ''}")}
    if prefix:
        chosen |= {k: m for k, m in stored.items() if k.startswith((f"{prefix}dino_head.", f"{prefix}ibot_head."))}
    if not chosen:
        raise WeightsError(f"{folder}: no tensors in it")
    files = set()
    for index, info in metadata.storage_data.items():
        if not isinstance(info.relative_path, str) or not DATA_FILE.fullmatch(info.relative_path):
            raise WeightsError(
                f"{folder / METADATA}: names {str(info.relative_path)[:80]!r}, which is not in this folder"
            )
        if index.fqn in chosen:
            files.add(folder / info.relative_path)
    for file in sorted(files):
        if not file.is_file():
            raise WeightsError(f"{file}: is missing")
    tensors = {k: torch.empty(m.size, dtype=m.properties.dtype) for k, m in chosen.items()}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            dcp.load(tensors, storage_reader=_SafeReader(folder, metadata), no_dist=True)
    except (dcp.api.CheckpointException, OSError, RuntimeError, ValueError, KeyError, EOFError) as error:
        reason = ([line for line in str(error).splitlines() if line.strip()] or [type(error).__name__])[-1]
        raise WeightsError(f"{folder}: cannot be read: {reason[:200]}") from error
    return {k.removeprefix(prefix): v for k, v in tensors.items()}, sorted(files)


def _read_metadata(path: Path) -> Metadata:
    try:
        content = _RecordsOnly(io.BytesIO(path.read_bytes())).load()
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{path}: is not read, it holds more than a checkpoint's records: {error}") from error
    except (EOFError, AttributeError, ImportError, IndexError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: not the metadata of a checkpoint: {type(error).__name__}") from error
    if not isinstance(content, Metadata) or not isinstance(content.storage_data, dict):
        raise WeightsError(f"{path}: not the metadata of a checkpoint")
    return content
