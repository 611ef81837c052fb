"""Files of ``torch.save``, old and new: which tensors they hold, told without running or allocating anything.

The pickle inside is read by ``pickle_records``; a tensor is a plan of dtype, shape, strides and where its numbers lie,
and is made only when it is asked for. What is no dense tensor of the file's own bytes is named, not made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

from dinov3.weights.reading.pickle_records import PERSISTENT, Name, NotPlain, Record, is_int, read_pickle
from dinov3.weights.reading.torch_archive import Archive, DamagedArchive, read_into

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file before torch 1.6
MAX_PICKLE = 1 << 26  # bytes; what describes a training state of 7 billion weights takes 2 MB
MAX_DIMS = 8
MAX_ARGS = 8  # of a call that rebuilds a tensor
MAX_COUNT = 1 << 60  # elements; beyond it torch's own arithmetic overflows
STORAGES = {
    **{"FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16},
    **{"BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32},
    **{"ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8},
    **{"BoolStorage": torch.bool, "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128},
    "UntypedStorage": torch.uint8,
}
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in STORAGES.values()}
TENSOR_MODULES = ("torch._utils", "torch._tensor")
KINDS = {
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_meta_tensor_no_storage": "a meta tensor",
    "_rebuild_qtensor": "a quantised tensor",
    "_rebuild_wrapper_subclass": "a wrapped tensor",
}


@dataclass(frozen=True)
class Storage:
    """A row of numbers that tensors are views of, as the file claims it to be."""

    key: str
    dtype: torch.dtype
    count: int

    @property
    def nbytes(self) -> int:
        return self.count * self.dtype.itemsize


@dataclass(frozen=True)
class Plan:
    """A dense tensor as a file describes it."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int  # elements
    dtype: torch.dtype
    storage: Storage

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class TorchFile:
    """What ``torch.save`` wrote into an open file of ``size`` bytes.

    ``content`` is its object as ``read_pickle`` gives it. Raises DamagedArchive or NotPlain.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._archive: Archive | None = None
        self._folder = ""
        self._places: dict[str, tuple[int, int]] = {}  # of an old file: start and bytes of each storage
        self._made: dict[str, Tensor] = {}
        self.content: Any = None
        self.names: frozenset[Name] = frozenset()
        file.seek(0)
        if file.read(4) == b"PK\x03\x04":
            self._open_archive(file, size)
        else:
            self._open_old(file, size)

    def _open_archive(self, file: BinaryIO, size: int) -> None:
        self._archive = archive = Archive(file, size)
        name = archive.find("data.pkl")
        if name is None:
            raise NotPlain("a zip file, and not of torch.save: unpack it")
        self._folder = name.removesuffix("data.pkl")
        order = archive.find("byteorder")
        if order is not None and (archive.size(order) > 8 or bytes(archive.read(order).tolist()) != b"little"):
            raise NotPlain("written on a big-endian machine: save it again on another")
        if archive.size(name) > MAX_PICKLE:
            raise NotPlain(f"its description has {archive.size(name)} bytes, more than {MAX_PICKLE}")
        found = read_pickle(archive.read(name).numpy().tobytes())
        self.content, self.names = found.value, found.names

    def _open_old(self, file: BinaryIO, size: int) -> None:
        """Pickles one after the other (magic number, version, machine, object, storage keys), then the storages."""
        file.seek(0)
        head = file.read(min(size, MAX_PICKLE))
        first = read_pickle(head)
        if first.value != MAGIC:
            raise NotPlain("a pickle, and not of torch.save: save the state_dict() with torch.save")
        version = read_pickle(head, first.end)
        machine = read_pickle(head, version.end)
        if not isinstance(machine.value, dict) or machine.value.get("little_endian") is not True:
            raise NotPlain("written on a big-endian machine: save it again on another")
        found = read_pickle(head, machine.end)
        keys = read_pickle(head, found.end)
        self.content, self.names = found.value, found.names
        if not isinstance(keys.value, list) or not all(isinstance(key, str) for key in keys.value):
            raise NotPlain("its list of storages is none")
        stored = [_storage(value) for value in found.outside]
        widths = {s.key: s.dtype.itemsize for s in stored if s is not None}
        at = keys.end
        for key in keys.value:  # a count of elements in front of each
            file.seek(at)
            count = int.from_bytes(file.read(8), "little")
            self._places[key] = (at + 8, count * widths.get(key, 1))
            at += 8 + self._places[key][1]
            if key not in widths or at > size:
                raise DamagedArchive("it ends early: copy or download it again")

    def plan(self, value: Any) -> Plan | str:
        """How to make the tensor that ``value``, a part of ``content``, stands for; or what it is instead."""
        for _ in range(3):  # a parameter of a tensor with attributes is a tensor
            if not isinstance(value, Record) or not isinstance(value.kind, Name):
                return kind_of(value)
            name, args = value.kind.name, value.args
            if value.kind.module == "torch._utils" and name.startswith("_rebuild_parameter") and args:
                value = args[0]
            elif value.kind == Name("torch._tensor", "_rebuild_from_type_v2") and len(args) == 4:
                if args[1] not in (Name("torch", "Tensor"), Name("torch.nn.parameter", "Parameter")):
                    return f"a tensor of class {args[1]}" if isinstance(args[1], Name) else "no tensor"
                if not isinstance(args[0], Name) or not isinstance(args[2], tuple):
                    return "no tensor"
                value = Record(args[0], args[2])
            else:
                break
        if value.kind.module != "torch._utils" or not name.startswith("_rebuild_tensor"):
            return kind_of(value)
        return _dense(value) or "a tensor larger than its bytes in the file"

    def tensor(self, plan: Plan) -> Tensor:
        """The tensor, which may share its memory with others of the same storage. DamagedArchive for another size."""
        key, width = plan.storage.key, plan.dtype.itemsize
        if key not in self._made:
            self._made[key] = self._read(plan.storage)
        content = self._made[key]
        whole = content[: len(content) // width * width].view(plan.dtype)
        return whole.as_strided(plan.shape, plan.strides, plan.offset)

    def _read(self, storage: Storage) -> Tensor:
        name = f"{self._folder}data/{storage.key}"
        if self._archive is None:
            start, size = self._places.get(storage.key, (0, -1))
        elif (size := self._archive.size(name)) < 0:
            raise DamagedArchive(f"{ascii(name)[:120]} is missing in it: copy or download it again")
        if size != storage.nbytes:
            raise DamagedArchive("the sizes in it contradict each other: copy or download it again")
        if self._archive is not None:
            return self._archive.read(name)
        content = torch.empty(size, dtype=torch.uint8, device="cpu")
        read_into(self._file, start, content)
        return content


def _storage(value: Any) -> Storage | None:
    """What a persistent id says; None when it is none of a storage."""
    if (
        not isinstance(value, tuple)
        or len(value) not in (5, 6)
        or value[0] != "storage"
        or value[5:] not in ((), (None,))
    ):
        return None
    kind, key, count = value[1], value[2], value[4]
    dtype = STORAGES.get(kind.name) if isinstance(kind, Name) and kind.module in ("torch", "torch.storage") else None
    if dtype is None or not isinstance(key, str) or not is_int(count) or not 0 <= count < MAX_COUNT:
        return None
    return Storage(key, dtype, count)


def _dense(record: Record) -> Plan | None:
    """The plan of a call of ``_rebuild_tensor``, ``_v2`` or ``_v3``; None unless it stays within its storage."""
    v3 = record.kind == Name("torch._utils", "_rebuild_tensor_v3")
    if len(record.args) > MAX_ARGS or any(record.args[7 if v3 else 6 :]):  # marks of conjugate and negated numbers
        return None
    if len(record.args) < 4 or not isinstance(record.args[0], Record) or record.args[0].kind != PERSISTENT:
        return None
    storage = _storage(record.args[0].args[0])
    offset, shape, strides = record.args[1:4]
    if storage is None or not isinstance(shape, tuple) or not isinstance(strides, tuple):
        return None
    if len(shape) != len(strides) or len(shape) > MAX_DIMS or not all(map(_is_count, (offset, *shape, *strides))):
        return None
    dtype: torch.dtype | None = storage.dtype
    if v3:
        named = record.args[6] if len(record.args) > 6 else None
        dtype = DTYPES.get(named.name) if isinstance(named, Name) and named.module == "torch" else None
    if dtype is None or math.prod(max(s, 1) for s in shape) >= MAX_COUNT:
        return None
    plan, there = Plan(shape, strides, offset, dtype, storage), storage.nbytes // dtype.itemsize
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    # With a stride of 0 a few numbers become a tensor of any size: never more elements than are stored.
    return plan if math.prod(shape) == 0 or (last < there and math.prod(shape) <= there) else None


def _is_count(value: Any) -> bool:
    return is_int(value) and 0 <= value < MAX_COUNT


def is_tensor(value: Any) -> bool:
    """Does a part of ``content`` stand for a tensor of any kind?"""
    if not isinstance(value, Record) or not isinstance(value.kind, Name):
        return False
    return value.kind.module in TENSOR_MODULES and value.kind.name.startswith("_rebuild")


def kind_of(value: Any) -> str:
    """A few words for what is no dense tensor."""
    if isinstance(value, Record) and isinstance(value.kind, Name):
        return KINDS.get(value.kind.name, "an unusual tensor") if is_tensor(value) else str(value.kind)
    words = {dict: "a table", list: "a list", tuple: "a list", str: "text", bytes: "bytes", bool: "a truth value"}
    words |= {int: "a number", float: "a number", type(None): "nothing", Name: "a name"}
    return words.get(type(value), "no tensor")
