"""Golden cases on an accelerator that computes on the CPU: ``python -m tests.golden.elsewhere CASE ...``.

One JSON line a case: its status, how many operations the accelerator did, how many of the checked results were tensors,
and how many of these lie there. It shows what a GPU would be spared
from: tensors of the case that stayed on the CPU, operations that mix devices, numpy asked to read the device.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from tests import accelerator_on_cpu
from tests.accelerator_on_cpu import NAME, start
from tests.golden.__main__ import run_case
from tests.golden.case import Case

DATA = Path(__file__).parent / "data"


def main(names: Sequence[str]) -> int:
    if not start():
        print(json.dumps({"missing": "this torch has no accelerator written in Python"}))
        return 0
    torch.set_num_threads(1)  # the reference was made with one thread
    compare = Case.check
    for name in names:
        tensors = there = 0
        before = accelerator_on_cpu.computed

        def check(case: Case, key: str, value: Any) -> None:
            nonlocal tensors, there
            tensors += isinstance(value, Tensor)
            there += isinstance(value, Tensor) and value.device.type == NAME
            compare(case, key, value)

        with patch.object(Case, "check", check):
            status, detail = run_case(DATA / name, torch.device(NAME, 0))
        counts = {"operations": accelerator_on_cpu.computed - before, "tensors": tensors, "there": there}
        print(json.dumps({"case": name, "status": status, "detail": detail, **counts}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
