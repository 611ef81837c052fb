"""Beginning with another transformer's weights, and saying of every tensor what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dinov3.generate.errors import GenerateError
from dinov3.models.diffusion.transformer import FEATURE_NAMES


@dataclass
class WarmReport:
    """Names of tensors, each in one list."""

    source: str
    loaded: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)  # here, not there
    mismatched: list[str] = field(default_factory=list)  # of another shape; new here
    unexpected: list[str] = field(default_factory=list)  # there, not here

    def lines(self) -> list[str]:
        """For the start-up block."""
        told = f"start      {self.source}: {len(self.loaded)} tensors"
        for about in ("new", "mismatched", "unexpected"):
            if names := getattr(self, about):
                told += f"; {about}: {len(names)}, first {names[0]}"
        return [told]

    def to_json(self) -> dict[str, Any]:
        """For train_state.json."""
        return asdict(self)


def sees(name: str) -> bool:
    """Whether a tensor belongs to what only a model that sees features has."""
    return any(part.startswith(FEATURE_NAMES) for part in name.split("."))


@torch.no_grad()
def load_warm(model: nn.Module, tensors: Mapping[str, Tensor], source: str, allow: Sequence[str] = ()) -> WarmReport:
    """Copy what has the same name and shape; the rest keeps its first values.

    GenerateError, in one line with every kind, when anything is missing that a model of text alone would have, is left over or
    has another shape, unless a beginning in ``allow`` names it; the model is untouched then.
    """
    own, report = model.state_dict(), WarmReport(source)
    for name, tensor in own.items():
        there = tensors.get(name)
        kind = report.new if there is None else report.loaded if there.shape == tensor.shape else report.mismatched
        kind.append(name)
    report.unexpected = sorted(set(tensors) - set(own))

    def refused(names: Iterable[str], known: Sequence[str] = ()) -> list[str]:
        return [name for name in names if name not in known and not name.startswith(tuple(allow))]

    problems = {
        "missing": refused(report.new, [name for name in report.new if sees(name)]),
        "of another shape": refused(report.mismatched),
        "left over": refused(report.unexpected),
    }
    if told := [f"{len(names)} {about}, first {names[0]}" for about, names in problems.items() if names]:
        raise GenerateError(
            f"warm_start.weights: {source}: does not fit this model: {'; '.join(told)}: change transformer.*, or name them in "
            "warm_start.allow"
        )
    for name in report.loaded:
        own[name].copy_(tensors[name])
    return report
