"""Features of each frame, written as the features of a data set are: shards, then the manifest, read by ``FeatureSet``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dinov3.engine.precision import DTYPES
from dinov3.features.cache import MANIFEST, write_manifest
from dinov3.features.shards import write_shard
from dinov3.features.tokens import Tokens

SHARD_FRAMES, SHARD_BYTES = 64, 128 * 2**20  # what waits in memory before it is written: frames, and float32 bytes


class FrameWriter:
    """``add`` each frame in order, then ``finish``. A set without its manifest is unfinished and nobody reads it."""

    def __init__(self, folder: Path, key: Mapping[str, Any], dtype: str = "fp16") -> None:
        self.key = {**key, "pool": "patches", "dtype": dtype, "format": "safetensors"}
        name = hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()[:16]
        self.out, self.dtype = folder / name, dtype
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / MANIFEST).unlink(missing_ok=True)
        self._waiting: list[tuple[int, Tokens]] = []
        self._shards: list[dict[str, Any]] = []
        self._rows = 0

    def add(self, number: int, tokens: Tokens) -> None:
        """One frame: its number in the video and its tokens (N = 1). A frame of another grid begins a shard."""
        if self._waiting:
            most = min(SHARD_FRAMES, max(1, SHARD_BYTES // (4 * tokens.patches.numel())))
            if len(self._waiting) >= most or self._waiting[0][1].grid != tokens.grid:
                self._write()
        self._waiting.append((number, tokens))

    def finish(self, skipped: list[dict[str, str]]) -> Path:
        """Write what is left and the manifest; the folder of the set."""
        if self._waiting:
            self._write()
        write_manifest(self.out, self.key, self._rows, skipped, self._shards)
        return self.out

    def _write(self) -> None:
        dtype, each = DTYPES[self.dtype], [tokens for _, tokens in self._waiting]
        name = f"{len(self._shards):05d}"
        tensors = {
            "cls": torch.cat([tokens.cls for tokens in each]).to(dtype),
            "storage": torch.cat([tokens.storage for tokens in each]).to(dtype),
            "patches": torch.cat([tokens.patches for tokens in each]).to(dtype),
            "grid": torch.tensor([tokens.grid for tokens in each], dtype=torch.int64),
            "index": torch.tensor([number for number, _ in self._waiting], dtype=torch.int64),
        }
        facts = {"first": self._waiting[0][0]}
        self._shards.append(write_shard(self.out, name, tensors, "safetensors", facts))
        self._rows += len(each)
        self._waiting = []
