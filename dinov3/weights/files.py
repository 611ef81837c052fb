"""Weight files of other programs, read without running anything that is in them."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dinov3.system.json_file import JsonError, parse, parse_object
from dinov3.weights.reading.errors import WeightsError, clipped, one_line
from dinov3.weights.reading.mistaken import AGAIN, HEAD, mistaken
from dinov3.weights.reading.pickle_records import NotPlain
from dinov3.weights.reading.tables import find_table
from dinov3.weights.reading.torch_archive import DamagedArchive
from dinov3.weights.reading.torch_file import Plan, TorchFile, is_tensor

__all__ = ["CONFIG", "OURS", "SINGLE", "RawWeights", "WeightsError", "read_json", "read_weights"]

SINGLE = "model.safetensors"
TORCH_SINGLE = "pytorch_model.bin"  # what transformers wrote before safetensors
INDEX = f"{SINGLE}.index.json"  # of a Hugging Face folder whose weights are in several files
TORCH_INDEX = f"{TORCH_SINGLE}.index.json"
CONFIG = "config.json"
OURS = "dinov3"  # the key of our description in the metadata of a safetensors file
MAX_JSON = 1 << 26  # bytes
MAX_HEADER = 1 << 24  # bytes of JSON in front of a safetensors file; 7 billion weights take 100 kB
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
SHARED = 2  # tensors that share memory (two names for one) may be so many times the file's bytes
# Modules whose names in a pickle mean that somebody wanted a program run; nothing here runs them. Of builtins, the
# containers are harmless, and getattr is how Python 3.11.0 to 3.11.3 write an enum.
ALARMING = {
    *("os", "posix", "nt", "sys", "subprocess", "builtins", "__builtin__", "importlib", "runpy", "pty", "shutil"),
    *("socket", "ctypes", "code", "marshal", "webbrowser"),
}
HARMLESS = {
    *("set", "frozenset", "slice", "range", "complex", "bytearray", "bytes", "object", "list", "dict", "tuple"),
    *("int", "float", "str", "bool", "long", "unicode", "getattr"),
}


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
    """The tensors at ``path``: a safetensors or a torch file under any name, or a folder of Hugging Face.

    Nothing in a file is run: of a torch file the tensors are read and the rest is passed over. The model of a training
    checkpoint is taken out of its table (``teacher``, ``state_dict``, ``model``, …). Sizes are compared with the file's
    before memory is asked for. Raises WeightsError, also for tensors that are not dense and finite floats.
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise WeightsError(f"{path}: {'is no file: a pipe or a device' if path.exists() else 'no such file or folder'}")
    beside = path.with_name(CONFIG)
    config = read_json(beside) if path.name in (SINGLE, TORCH_SINGLE) and beside.is_file() else None
    tensors, metadata = _read_file(path)
    return RawWeights(path, [path], _checked(tensors, path), config, metadata)


def _read_folder(folder: Path) -> RawWeights:
    for single, index in ((SINGLE, INDEX), (TORCH_SINGLE, TORCH_INDEX)):
        if (folder / index).is_file():
            placed: dict[str, str] | None = _weight_map(folder / index, Path(single).suffix)
            names = sorted(set((placed or {}).values()))
            break
        if (folder / single).is_file():
            placed, names = None, [single]
            break
    else:
        raise WeightsError(f"{folder}: {_what_is_there(folder)}")
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for name in names:
        part, metadata = _read_file(folder / name)
        if twice := sorted(set(part) & set(tensors)):
            raise WeightsError(f"{folder / name}: {clipped(twice[0])} is in two files")
        tensors |= part
    if placed is not None and set(tensors) != set(placed):
        raise WeightsError(f"{folder / index}: names other tensors than its files hold: download the folder again")
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else None
    return RawWeights(folder, [folder / n for n in names], _checked(tensors, folder), config, metadata)


def _what_is_there(folder: Path) -> str:
    endings = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")
    files = sorted(path.name for path in folder.iterdir() if path.suffix in endings)
    if files:
        return f"no {SINGLE} in it; give one of its files, for example {folder / files[0]}"
    return (
        f"no backbone.safetensors in it, no {SINGLE} and no {INDEX}: "
        "give a run, a checkpoint, a Hugging Face folder or a weight file"
    )


def _weight_map(index: Path, suffix: str) -> dict[str, str]:
    """Tensor name to file name; files lie in the folder itself."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise WeightsError(f"{index}: has no weight_map")
    for file in names.values():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(suffix):
            raise WeightsError(f"{index}: names {clipped(file)!r}, which is not a {suffix[1:]} file in this folder")
    return names


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds a table; WeightsError for anything else."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    if (size := path.stat().st_size) > MAX_JSON:
        raise WeightsError(f"{path}: {size} bytes is too large for a description, at most {MAX_JSON}")
    text = path.read_bytes()
    try:
        content = parse(text)
    except JsonError as error:
        what = mistaken(text[:HEAD], size) if text[:1] not in (b"{", b"[") else None
        raise WeightsError(f"{path}: {'is ' + what if what else one_line(error)}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: not a JSON table")
    return content


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of one file, told apart by its content: people rename files."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(HEAD)
        if what := mistaken(head, size):
            raise WeightsError(f"{path}: is {what}")
        if head[8:9] == b"{" or (path.suffix == ".safetensors" and not head.startswith((b"PK", b"\x80"))):
            return _read_safetensors(path, head, size)
        return read_torch(file, size, path), {}


def check_header(path: Path, head: bytes, size: int) -> None:
    """WeightsError unless the header of a safetensors file, as long as ``head`` says, fits into it."""
    length = int.from_bytes(head[:8], "little")
    if 8 + length > size:
        early = head[8:9] == b"{" and length <= MAX_HEADER
        why = f"ends early: {AGAIN}" if early else f"it declares a header of {length} bytes, the file has {size}"
        raise WeightsError(f"{path}: not a readable safetensors file: {why}")
    if length > MAX_HEADER:
        raise WeightsError(f"{path}: its header has {length} bytes, at most {MAX_HEADER} are read")


def _read_safetensors(path: Path, head: bytes, size: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    check_header(path, head, size)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError) as error:
        why = one_line(error)
        if "incomplete" in why.lower():
            why = _wrong_length(path, size)
        raise WeightsError(f"{path}: not a readable safetensors file: {why}") from error


def _wrong_length(path: Path, size: int) -> str:
    """What is wrong with a safetensors file whose tensors do not end where the file ends."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            entries = parse_object(file.read(min(length, size)))  # the length is what the file claims
            end = (
                8 + length + max(entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__")
            )
        except (JsonError, KeyError, TypeError, IndexError, ValueError):
            return f"damaged: {AGAIN}"
    if size > end:
        return f"{size - end} bytes follow its last tensor, which ends at byte {end}: {AGAIN}"
    return f"ends early ({size} bytes are there): {AGAIN}"


def open_torch(file: BinaryIO, size: int, path: Path) -> TorchFile:
    """A torch file, nothing read but its description. WeightsError when it is none or asks for what no weights need."""
    try:
        content = TorchFile(file, size)
    except (DamagedArchive, NotPlain) as error:
        file.seek(0)
        raise WeightsError(f"{path}: {_no_torch_file(file, size, error)}") from error
    for name in content.names:
        if name.module.partition(".")[0] in ALARMING and name.name not in HARMLESS:
            raise WeightsError(
                f"{path}: asks to run {name}, which no weights need: nothing was run; do not use this file, "
                "or have its tensors saved alone: torch.save(model.state_dict(), FILE)"
            )
    return content


def _no_torch_file(file: BinaryIO, size: int, error: Exception) -> str:
    start = file.read(4)
    if start == b"PK\x03\x04":
        file.seek(max(0, size - (1 << 16) - 22))
        tail = file.read()
        end = tail.rfind(b"PK\x05\x06")  # the end of every zip, 22 bytes at least
        if end < 0 or end + 22 > len(tail):
            return f"ends early ({size} bytes are there): {AGAIN}"
        return str(error)
    if start[:1] == b"\x80":
        return f"not a readable torch file: {error}"
    return "not a weight file: weights are read from safetensors and torch files"


def read_torch(file: BinaryIO, size: int, path: Path) -> dict[str, Tensor]:
    """The model's tensors in a torch file."""
    content = open_torch(file, size, path)
    try:
        table = find_table(content.content, is_tensor)
        plans = {name: content.plan(value) for name, value in table.items()}
        for name, plan in plans.items():
            if not isinstance(plan, Plan):
                raise WeightsError(f"{clipped(name)} is {plan}, and not a plain tensor of finite floats")
            if plan.dtype not in FLOATS:
                raise WeightsError(f"{clipped(name)} is not a plain tensor of finite floats, but of {plan.dtype}")
        if sum(plan.nbytes for plan in plans.values() if isinstance(plan, Plan)) > SHARED * size:
            raise WeightsError(f"its tensors are larger than the file of {size} bytes: they repeat the same numbers")
        return {name: content.tensor(plan) for name, plan in plans.items() if isinstance(plan, Plan)}
    except (WeightsError, DamagedArchive) as error:
        raise WeightsError(f"{path}: {error}") from error


def _checked(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """As they are; WeightsError unless all are finite floats, or 8-bit integers as ``dinov3 compress`` writes them."""
    if not tensors:
        raise WeightsError(f"{path}: holds no tensor")
    for name, tensor in tensors.items():
        if tensor.dtype not in (*FLOATS, torch.int8) or not bool(tensor.isfinite().all()):
            raise WeightsError(f"{path}: {clipped(name)} is not a plain tensor of finite floats")
    return tensors
