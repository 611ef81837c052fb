"""Golden cases on a device that computes nothing: ``python -m tests.golden.elsewhere CASE ...``.

One JSON line a case: its status, and how many results came from the device. It shows what a GPU would be spared from:
tensors of the case that stayed on the CPU, operations that mix devices.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.accelerator_of_nothing import NAME, Waits, start
from tests.golden.__main__ import run_case
from tests.golden.case import Case

DATA = Path(__file__).parent / "data"


def state(case: Case, prefix: str = "") -> dict[str, Tensor]:
    """The names and shapes of ``Case.state``, on the CPU as there."""
    rows = [row for row in case.meta["state_dict"] if row["fill"] != "computed" and row["key"].startswith(prefix)]
    by_key = {row["key"]: row for row in case.meta["state_dict"]}

    def shape(row: dict[str, Any]) -> list[int]:
        while row["fill"].startswith(("alias:", "copy:")):
            row = by_key[row["fill"].split(":", 1)[1]]
        found: list[int] = row["shape"]
        return found

    return {row["key"].removeprefix(prefix): torch.empty(shape(row)) for row in rows}


def tensor(case: Case, key: str) -> Tensor:
    """The shape and number format of ``Case.tensor``."""
    array = case.arrays[key]
    return torch.empty(array.shape, dtype=torch.from_numpy(np.empty(0, array.dtype)).dtype, device=case.device)


def main(names: Sequence[str]) -> int:
    if not start():
        print(json.dumps({"missing": "this torch has no device without values"}))
        return 0
    for name in names:
        there = 0

        def check(case: Case, key: str, value: Any) -> None:
            nonlocal there
            case.checked += 1
            case.seen.add(key)
            there += isinstance(value, Tensor) and value.device.type == NAME

        replaced = patch.multiple(Case, check=check, state=state, tensor=tensor)
        with replaced, FakeTensorMode(allow_non_fake_inputs=True), Waits():
            status, detail = run_case(DATA / name, torch.device(NAME, 0))
        print(json.dumps({"case": name, "status": status, "detail": detail, "there": there}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
