"""One golden case: numbers from the official code, the fill formula of its weights, and the check against its tolerance.

A case is NAME.json (what was called, with which seeds, tolerances) and NAME.npz (the arrays). Weights are not stored:
each parameter follows a formula from the crc32 of its name.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Tolerances were chosen on CPUs. A GPU adds up in another order; this factor is all it is given for that.
ACCELERATOR_SLACK = 3.0


class Skip(Exception):
    """This case, or this machine, cannot be judged; the message says why."""


def filled(key: str, shape: list[int], kind: str, std: float) -> Tensor:
    """The parameter of that name: normal with ``std``, seeded by the name's crc32, plus 1 (norm) or 0.1 (gamma).

    Drawn on the CPU whatever the case's device is: a GPU's generator gives other numbers.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    value = torch.randn(tuple(shape), generator=generator, dtype=torch.float32) * std
    return value + {"norm": 1.0, "gamma": 0.1}[kind] if kind != "plain" else value


@dataclass
class Case:
    """A loaded case. ``check`` collects what is wrong in ``failures``."""

    path: Path  # without suffix
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))  # where tensors and models live
    meta: dict[str, Any] = field(init=False)
    arrays: Any = field(init=False)
    failures: list[str] = field(default_factory=list)
    checked: int = 0
    seen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.meta = json.loads(self.path.with_name(self.path.name + ".json").read_text())
        npz = self.path.with_name(self.path.name + ".npz")
        self.arrays = np.load(npz) if npz.exists() else {}

    def tensor(self, key: str) -> Tensor:
        return torch.from_numpy(self.arrays[key]).to(self.device)

    def state(self, prefix: str = "") -> dict[str, Tensor]:
        """Weights whose name starts with ``prefix``, prefix removed; computed buffers are left out."""
        full: dict[str, Tensor] = {}
        for row in self.meta["state_dict"]:
            key, kind = row["key"], row["fill"]
            if kind == "computed":
                continue
            if kind.startswith(("alias:", "copy:")):
                full[key] = full[kind.split(":", 1)[1]].clone()
            else:
                full[key] = filled(key, row["shape"], kind, row.get("std", 0.02))
            total = float(full[key].double().sum())
            assert abs(total - row["sum"]) <= 1e-6 * max(1.0, float(full[key].double().abs().sum())), key
        return {k.removeprefix(prefix): v for k, v in full.items() if k.startswith(prefix)}

    def computed_keys(self, prefix: str = "") -> set[str]:
        rows = self.meta["state_dict"]
        return {r["key"].removeprefix(prefix) for r in rows if r["fill"] == "computed" and r["key"].startswith(prefix)}

    def load_into(self, module: torch.nn.Module, prefix: str = "") -> None:
        """Fill ``module``; every key must be accounted for, in both directions."""
        state = self.state(prefix)
        own = set(module.state_dict())
        computed = self.computed_keys(prefix)
        if set(state) | computed != own:
            missing, extra = sorted(own - set(state) - computed), sorted((set(state) | computed) - own)
            raise KeyError(f"{prefix or 'model'}: not in golden {missing[:5]}, not in model {extra[:5]}")
        module.load_state_dict({**module.state_dict(), **state}, strict=True)

    def fail_if_unchecked(self) -> None:
        """Every stored output must have been compared; inputs are not outputs."""
        left = [k for k in self.arrays if not k.startswith("in/") and k not in self.seen]
        if left:
            self.failures.append(f"{len(left)} arrays not checked: {left[:4]}")

    def tolerance(self, key: str) -> dict[str, float]:
        table = self.meta["tolerance"]
        named = [p for p in table if not p.startswith("_") and p != "default" and key.startswith(p)]
        limits: dict[str, float] = table[max(named, key=len, default="default")]
        slack = 1.0 if self.device.type == "cpu" else ACCELERATOR_SLACK
        return {name: limit * slack for name, limit in limits.items()}

    def check(self, key: str, value: Any) -> None:
        """Compare with the stored array under its tolerance: elementwise, relative L2 and relative maximum."""
        self.checked += 1
        self.seen.add(key)
        ref = np.asarray(self.arrays[key])
        val = value.detach().cpu() if isinstance(value, Tensor) else value
        val = (
            (val.float() if val.dtype == torch.bfloat16 else val).numpy()
            if isinstance(val, Tensor)
            else np.asarray(val)
        )
        if ref.shape != val.shape:
            self.failures.append(f"{key}: shape {val.shape}, expected {ref.shape}")
            return
        if ref.dtype.kind in "biu":
            if not np.array_equal(ref, val):
                self.failures.append(f"{key}: {int((ref != val).sum())} entries differ")
            return
        ref, val = ref.astype(np.float64), val.astype(np.float64)
        if not np.array_equal(np.isnan(ref), np.isnan(val)):
            self.failures.append(f"{key}: NaN pattern differs")
            return
        self._check_numbers(key, np.nan_to_num(ref), np.nan_to_num(val))

    def _check_numbers(self, key: str, ref: np.ndarray, val: np.ndarray) -> None:
        limits, diff = self.tolerance(key), np.abs(ref - val)
        if "rtol" in limits and ref.size:
            worst = float(np.max(diff / (limits["atol"] + limits["rtol"] * np.abs(ref))))
            if worst > 1:
                self.failures.append(f"{key}: elementwise, worst {worst:.3g} x tolerance")
        if "rel_l2" in limits:
            rel = float(np.linalg.norm(diff) / max(float(np.linalg.norm(ref)), 1e-30))
            if rel > limits["rel_l2"]:
                self.failures.append(f"{key}: rel_l2 {rel:.3g} > {limits['rel_l2']}")
        if "rel_max" in limits:
            rel = float(np.max(diff / np.maximum(np.abs(ref), 1e-12), initial=0))
            if rel > limits["rel_max"]:
                self.failures.append(f"{key}: rel_max {rel:.3g} > {limits['rel_max']}")
