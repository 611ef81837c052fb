"""One table a layout: which of our tensors is which of theirs, applied in both directions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")  # a part of a dotted name that is a number
QKV = "attn.qkv"
Rows = dict[str, str | tuple[str, str, str]]


class NameTable:
    """Rows of (our name, their name); ``*`` stands for a number, the same ones in the same order on both sides.

    Their side may be three names: ours is then the three stacked (queries, keys, values). A row that ends in no
    ``.weight`` or ``.bias`` is one tensor; ``{}`` at the end stands for both.
    """

    def __init__(self, rows: Rows) -> None:
        self.theirs: dict[str, tuple[str, ...]] = {}  # our pattern -> their patterns
        self.ours: dict[str, tuple[str, int]] = {}  # their pattern -> our pattern, which part of it
        for ours, theirs in rows.items():
            parts = (theirs,) if isinstance(theirs, str) else theirs
            for suffix in ("weight", "bias") if ours.endswith("{}") else ("",):
                mine = ours.removesuffix("{}") + suffix
                self.theirs[mine] = tuple(part.removesuffix("{}") + suffix for part in parts)
                for place, part in enumerate(self.theirs[mine]):
                    self.ours[part] = (mine, place)

    def to_ours(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Tensors under our names, and their names that the table does not have.

        Keys without a bias beside queries and values with one become zeros, and ``bias_mask`` says so.
        """
        found: dict[str, dict[int, Tensor]] = {}
        unknown = []
        for name, tensor in tensors.items():
            pattern, numbers = split_numbers(name)
            if pattern not in self.ours:
                unknown.append(name)
                continue
            mine, place = self.ours[pattern]
            found.setdefault(with_numbers(mine, numbers), {})[place] = tensor
        result = {}
        for name, parts in found.items():
            if name.endswith(f"{QKV}.bias") and set(parts) == {0, 2}:
                parts[1] = torch.zeros_like(parts[0])
                keep = torch.ones_like(parts[0])
                result[f"{name}_mask"] = torch.cat([keep, parts[1], keep])
            wanted = len(self.theirs[split_numbers(name)[0]])
            if set(parts) != set(range(wanted)) or (wanted > 1 and not _stackable(list(parts.values()))):
                theirs = [with_numbers(t, split_numbers(name)[1]) for t in self.theirs[split_numbers(name)[0]]]
                unknown += [theirs[place] for place in parts]  # an incomplete set is no tensor of ours
                continue
            result[name] = torch.cat([parts[i] for i in range(wanted)]) if wanted > 1 else parts[0]
        return result, sorted(unknown)

    def to_theirs(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Tensors under their names, and our names that the table does not have."""
        result, unknown = {}, []
        for name, tensor in tensors.items():
            pattern, numbers = split_numbers(name)
            theirs = self.theirs.get(pattern)
            if theirs is None:
                unknown.append(name)
                continue
            for part, piece in zip(theirs, tensor.chunk(len(theirs)), strict=True):
                result[with_numbers(part, numbers)] = piece.contiguous().clone()
        return result, sorted(unknown)


def _stackable(parts: list[Tensor]) -> bool:
    return all(part.ndim > 0 and part.shape[1:] == parts[0].shape[1:] for part in parts)


def split_numbers(name: str) -> tuple[str, list[str]]:
    """``blocks.3.norm1.weight`` to ``blocks.*.norm1.weight`` and ``["3"]``."""
    return NUMBER.sub("*", name), NUMBER.findall(name)


def with_numbers(pattern: str, numbers: Sequence[str]) -> str:
    """The opposite of ``split_numbers``."""
    values = iter(numbers)
    return "".join(next(values) if part == "*" else part for part in re.split(r"(\*)", pattern))
