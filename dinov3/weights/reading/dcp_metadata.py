"""The ``.metadata`` of ``torch.distributed.checkpoint`` as plain records: which pieces make up which tensor, and where.

Torch 2.2 to 2.13 and Python 3.8 to 3.13 write the same pickle but for how an object's fields are kept (a table, a table
beside nothing, a row) and how an enum is (a call of its class or of ``getattr``); all are read, and none is made.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dinov3.weights.reading.errors import WeightsError, clipped
from dinov3.weights.reading.mistaken import HEAD, mistaken
from dinov3.weights.reading.pickle_records import Name, NotPlain, Record, is_int, read_pickle
from dinov3.weights.reading.torch_file import DTYPES, MAX_COUNT, MAX_DIMS

MAX_BYTES = 1 << 28  # a piece of a tensor takes 140 bytes
DATA_FILE = re.compile(r"[\w-]+\.distcp", re.ASCII)  # a plain name: no folder, no ..
_METADATA, _FILESYSTEM = "torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem"
FIELDS = {  # in the order in which they are written as a row
    "Metadata": ("state_dict_metadata", "planner_data", "storage_data", "storage_meta", "version"),
    "TensorStorageMetadata": ("properties", "size", "chunks"),
    "BytesStorageMetadata": (),
    "ChunkStorageMetadata": ("offsets", "sizes"),
    "TensorProperties": ("dtype", "layout", "requires_grad", "memory_format", "pin_memory"),
    "MetadataIndex": ("fqn", "offset", "index"),
    "StorageMeta": ("checkpoint_id", "save_id", "load_id", "modules"),
    "_StorageInfo": ("relative_path", "offset", "length", "transform_descriptors"),
}
MODULES = {kind: _FILESYSTEM if kind == "_StorageInfo" else _METADATA for kind in FIELDS}
OTHERS = {  # names beside those and the number formats of torch
    *((_METADATA, "_MEM_FORMAT_ENCODING"), ("torch.serialization", "_get_layout"), ("torch", "Size")),
    *(("torch", "device"), ("collections", "OrderedDict"), ("builtins", "getattr"), ("builtins", "set")),
    *((module, kind) for module in ("pathlib", "pathlib._local") for kind in ("Path", "PosixPath", "PurePosixPath")),
    *((module, kind) for module in ("pathlib", "pathlib._local") for kind in ("WindowsPath", "PureWindowsPath")),
}
NUMBER_FORMAT = re.compile(r"u?int\d+|float\w+|bfloat16|complex\d+|bool|q\w+|bits\w+|half|double|long|short")
Box = tuple[tuple[int, ...], tuple[int, ...]]  # offsets, sizes


@dataclass(frozen=True)
class Piece:
    """A box of a tensor, and the bytes of the file that hold it."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    start: int
    length: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor, every number of which is in one of its pieces."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Metadata:
    """What a checkpoint folder holds, and where; entries that are no tensors are left out."""

    path: Path
    tensors: Mapping[str, Record]
    places: Mapping[str, Sequence[tuple[Record, Record]]]  # name -> (its MetadataIndex, its _StorageInfo)

    def tensor(self, name: str) -> StoredTensor:
        """One of ``tensors``. WeightsError unless its pieces cover it exactly once and say where they lie."""
        try:
            return _tensor(self.tensors[name], self.places.get(name, ()))
        except WeightsError as error:
            raise WeightsError(f"{self.path}: {clipped(name)}: {error}") from None


def read_metadata(path: Path) -> Metadata:
    """The file ``.metadata``. Raises WeightsError; time and memory are bounded by its size."""
    if (size := path.stat().st_size) > MAX_BYTES:
        raise WeightsError(f"{path}: {size} bytes are too many for the metadata of a checkpoint, at most {MAX_BYTES}")
    data = path.read_bytes()
    if what := mistaken(data[:HEAD], size):
        raise WeightsError(f"{path}: is {what}")
    try:
        content = read_pickle(data)
    except NotPlain as error:
        raise WeightsError(f"{path}: not the metadata of a checkpoint: {error}") from error
    for name in sorted(content.names, key=str):
        if not _known(name):
            raise WeightsError(f"{path}: is not read, it holds more than a checkpoint's records: blocked global {name}")
    try:
        whole = _fields(content.value, "Metadata")
        tensors = whole["state_dict_metadata"]
        places = whole["storage_data"]
        if not isinstance(tensors, dict) or not isinstance(places, dict):
            raise WeightsError("its tables are none")
        return Metadata(path, dict(_tensors(tensors)), _places(places))
    except WeightsError as error:
        raise WeightsError(f"{path}: not the metadata of a checkpoint: {error}") from None


def _known(name: Name) -> bool:
    if MODULES.get(name.name) == name.module or (name.module, name.name) in OTHERS:
        return True
    return name.module == "torch" and NUMBER_FORMAT.fullmatch(name.name) is not None


def _fields(value: Any, kind: str) -> dict[str, Any]:
    """The fields of a record of this kind, those that were not written as None."""
    if not isinstance(value, Record) or value.kind != Name(MODULES[kind], kind):
        raise WeightsError(f"{_said(value)} where a {kind} belongs")
    names, state = FIELDS[kind], value.state
    values: dict[str, Any] = dict(zip(names, value.args, strict=False))
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict) and state[0] in (None, {}):
        state = state[1]  # of a class with slots
    if isinstance(state, dict):
        values |= {name: state[name] for name in names if name in state}
    elif isinstance(state, tuple | list):
        values |= dict(zip(names, state, strict=False))
    elif state is not None:
        raise WeightsError(f"a {kind} of {_said(state)}")
    return {name: values.get(name) for name in names}


def _said(value: Any) -> str:
    return str(value.kind) if isinstance(value, Record) else f"a {type(value).__name__}"


def _tensors(entries: dict[Any, Any]) -> Iterator[tuple[str, Record]]:
    for name, value in entries.items():
        if not isinstance(name, str) or not isinstance(value, Record):
            raise WeightsError("an entry without a name, or of no kind")
        if value.kind == Name(_METADATA, "TensorStorageMetadata"):
            yield name, value


def _places(entries: dict[Any, Any]) -> dict[str, list[tuple[Record, Record]]]:
    places: dict[str, list[tuple[Record, Record]]] = {}
    for index, info in entries.items():
        fields, where = _fields(index, "MetadataIndex"), _fields(info, "_StorageInfo")
        if not isinstance(fields["fqn"], str):
            raise WeightsError("a place of nothing")
        file = where["relative_path"]
        if not isinstance(file, str) or not DATA_FILE.fullmatch(file):
            raise WeightsError(f"it names {clipped(file, 80)!r}, which is not in this folder")
        places.setdefault(fields["fqn"], []).append((index, info))
    return places


def _tensor(record: Record, places: Sequence[tuple[Record, Record]]) -> StoredTensor:
    fields = _fields(record, "TensorStorageMetadata")
    properties = _fields(fields["properties"], "TensorProperties")
    dtype = properties["dtype"]
    if not isinstance(dtype, Name) or dtype.module != "torch" or dtype.name not in DTYPES:
        raise WeightsError(
            f"its numbers are of {_said(dtype) if not isinstance(dtype, Name) else dtype}, not read here"
        )
    shape = _size(fields["size"])
    chunks = fields["chunks"]
    if not isinstance(chunks, list):
        raise WeightsError("it has no pieces")
    if len(chunks) > 2 * len(places) + 16:  # the same long list could stand in every tensor
        raise WeightsError(f"it has {len(chunks)} pieces in {len(places)} places")
    boxes = [(_size(f["offsets"]), _size(f["sizes"])) for f in (_fields(c, "ChunkStorageMetadata") for c in chunks)]
    if not covers(shape, boxes):
        raise WeightsError(f"its {len(boxes)} pieces do not cover {list(shape)} exactly once")
    there: dict[tuple[int, ...], Record] = {}
    for index, info in places:
        offset = _size(_fields(index, "MetadataIndex")["offset"])
        if offset in there and 0 not in shape:
            raise WeightsError("one of its pieces is in two places")
        there[offset] = info
    pieces = []
    for offsets, sizes in boxes:
        if 0 in sizes:  # of a rank that has no rows of a small tensor
            continue
        if offsets not in there:
            raise WeightsError(f"its piece at {list(offsets)} is nowhere")
        pieces.append(_piece(offsets, sizes, _fields(there[offsets], "_StorageInfo")))
    return StoredTensor(shape, DTYPES[dtype.name], tuple(pieces))


def _piece(offsets: tuple[int, ...], sizes: tuple[int, ...], where: dict[str, Any]) -> Piece:
    start, length = where["offset"], where["length"]
    if not is_int(start) or not is_int(length) or not (0 <= start < MAX_COUNT and 0 <= length < MAX_COUNT):
        raise WeightsError(f"a piece begins at {_number(start)} and has {_number(length)} bytes")
    if where["transform_descriptors"]:
        raise WeightsError("its pieces are compressed: save the checkpoint without extensions")
    return Piece(offsets, sizes, where["relative_path"], start, length)


def _number(value: Any) -> str:
    return clipped(value, 40) if is_int(value) and abs(value) < 1 << 64 else _said(value)


def _size(value: Any) -> tuple[int, ...]:
    """A ``torch.Size``, however it was written."""
    if isinstance(value, Record) and value.kind == Name("torch", "Size") and len(value.args) == 1:
        value = value.args[0]
    if not isinstance(value, tuple | list) or len(value) > MAX_DIMS:
        raise WeightsError("a size that is no row of numbers")
    if not all(is_int(v) and 0 <= v < MAX_COUNT for v in value) or math.prod(max(v, 1) for v in value) >= MAX_COUNT:
        raise WeightsError(f"a size of {', '.join(map(_number, value))}")
    return tuple(value)


def covers(shape: tuple[int, ...], boxes: Sequence[Box]) -> bool:
    """Does every element of a tensor of this shape lie in exactly one box?

    Boxes are compared as rows of intervals, dimension by dimension, which finds every grid and every grid within one
    (all that sharding makes), in n log n. Empty boxes count for nothing when they lie inside.
    """
    if any(len(o) != len(shape) or len(s) != len(shape) for o, s in boxes):
        return False
    if any(o + s > whole for offsets, sizes in boxes for o, s, whole in zip(offsets, sizes, shape, strict=True)):
        return False
    if 0 in shape:
        return True
    return _tiled(shape, [box for box in boxes if 0 not in box[1]], 0)


def _tiled(shape: tuple[int, ...], boxes: Sequence[Box], dim: int) -> bool:
    if dim == len(shape):
        return len(boxes) == 1
    slabs: dict[tuple[int, int], list[Box]] = {}
    for box in boxes:
        slabs.setdefault((box[0][dim], box[1][dim]), []).append(box)
    at = 0
    for (offset, size), inside in sorted(slabs.items()):
        if offset != at or not _tiled(shape, inside, dim + 1):
            return False
        at += size
    return at == shape[dim]
