from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.launches import starts_a_kernel

ROOT = Path(__file__).resolve().parents[2]


def test_what_computes_is_counted_once_and_views_are_not() -> None:
    x, layer = torch.randn(3, 4), torch.nn.Linear(4, 5)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler, torch.no_grad():
        layer(x).t().reshape(-1).clone()[2:].mul_(2)
        x.to(torch.bfloat16)
    names = [event.name for event in profiler.events() if starts_a_kernel(event)]
    # the linear layer, the copy that a reshape of a transpose is, the clone, the product, the other number format
    assert names[0] == "aten::addmm"
    assert len(names) == 5


@pytest.mark.nightly
def test_a_compiled_step_has_no_graph_break_and_starts_less() -> None:
    command = [sys.executable, "benchmarks/launches.py", "--arch", "vit_tiny", "--depth", "1", "--prototypes", "64"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["compiled"]["graph_breaks"] == {}
    assert found["compiled"]["graphs"] > 5
    assert 0 < found["compiled"]["launches"] < 0.6 * found["eager"]["launches"]
