"""Checkpoint folders of ``torch.distributed.checkpoint`` (``.metadata`` and ``*.distcp``), read without their pickles.

``dcp_metadata`` says where the pieces of each tensor lie; a piece is a small file of ``torch.save`` inside a large one.
Entries that are not tensors, pickles again, are never opened.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dinov3.weights.reading.dcp_metadata import Piece, StoredTensor, read_metadata
from dinov3.weights.reading.errors import WeightsError, clipped
from dinov3.weights.reading.pickle_records import NotPlain
from dinov3.weights.reading.torch_archive import DamagedArchive
from dinov3.weights.reading.torch_file import Plan, TorchFile

METADATA = ".metadata"


def is_dcp(folder: Path) -> bool:
    """Is it a folder of this kind?"""
    return (folder / METADATA).is_file()


def read_dcp(folder: Path) -> tuple[dict[str, Tensor], list[Path]]:
    """The EMA teacher's tensors, ``backbone.*`` and heads, and the files they came from.

    Both of DINOv3's layouts: the whole training state (``model.model_ema.*``, else ``model.teacher.*``) and the sharded
    teacher (``model.backbone.*``). Memory is asked for once all sizes fit the files. Raises WeightsError for anything
    else in the metadata, for data files elsewhere, and for a tensor that its pieces do not cover exactly once.
    """
    metadata = read_metadata(folder / METADATA)
    stored = metadata.tensors
    prefixes = ("model.model_ema.", "model_ema.", "model.teacher.", "teacher.", "model.", "")
    prefix = next(p for p in prefixes if p == "" or any(k.startswith(f"{p}backbone.") for k in stored))
    parts = ("backbone.", "dino_head.", "ibot_head.") if prefix else ("",)
    wanted = [k for k in stored if k.startswith(tuple(prefix + part for part in parts))]
    if not wanted:
        raise WeightsError(f"{folder}: no tensors in it")
    chosen = {name: metadata.tensor(name) for name in wanted}
    files = sorted({folder / piece.file for tensor in chosen.values() for piece in tensor.pieces})
    _check_sizes(chosen, folder, {path.name: _size_of(path) for path in files})
    return {name.removeprefix(prefix): _assembled(name, tensor, folder) for name, tensor in chosen.items()}, files


def _size_of(path: Path) -> int:
    if not path.is_file():
        raise WeightsError(f"{path}: is missing")
    return path.stat().st_size


def _check_sizes(chosen: Mapping[str, StoredTensor], folder: Path, sizes: Mapping[str, int]) -> None:
    """WeightsError unless the pieces lie in their files, and together claim no more than the files have."""
    claimed = dict.fromkeys(sizes, 0)
    for name, tensor in chosen.items():
        for piece in tensor.pieces:
            if piece.start + piece.length > sizes[piece.file]:
                raise WeightsError(
                    f"{folder}: cannot be read: {piece.file} ends early: {clipped(name)} reaches to byte "
                    f"{piece.start + piece.length} of {sizes[piece.file]}: copy or download it again"
                )
            if _bytes_of(piece, tensor.dtype) > piece.length:
                raise WeightsError(
                    f"{folder}: a piece of {clipped(name)} is larger than its {piece.length} bytes in the file"
                )
            claimed[piece.file] += piece.length
    for file, count in claimed.items():
        if count > sizes[file]:
            raise WeightsError(f"{folder / file}: several tensors claim the same bytes of it")


def _bytes_of(piece: Piece, dtype: torch.dtype) -> int:
    return math.prod(piece.sizes) * dtype.itemsize


def _assembled(name: str, stored: StoredTensor, folder: Path) -> Tensor:
    whole = torch.empty(stored.shape, dtype=stored.dtype, device="cpu")
    for piece in stored.pieces:
        try:
            part = _read_piece(folder / piece.file, piece)
        except (DamagedArchive, NotPlain, OSError) as error:
            raise WeightsError(f"{folder}: cannot be read: {clipped(name)} in {piece.file}: {error}") from error
        if part.shape != piece.sizes or part.dtype != stored.dtype:
            raise WeightsError(
                f"{folder / piece.file}: {clipped(name)} is {list(part.shape)} {part.dtype} in it, "
                f"the metadata say {list(piece.sizes)} {stored.dtype}"
            )
        place = whole
        for dim, (offset, size) in enumerate(zip(piece.offsets, piece.sizes, strict=True)):
            place = place.narrow(dim, offset, size)
        place.copy_(part)
    return whole


def _read_piece(path: Path, piece: Piece) -> Tensor:
    with path.open("rb") as file:
        file.seek(piece.start)
        content = file.read(piece.length)
    saved = TorchFile(io.BytesIO(content), len(content))
    plan = saved.plan(saved.content)
    if not isinstance(plan, Plan):
        raise NotPlain(f"it is {plan}")
    return saved.tensor(plan)
