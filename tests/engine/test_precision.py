from __future__ import annotations

import pytest
import torch

from dinov3.engine.precision import resolve

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("asked", ["bf16", "fp16", "fp32"])
def test_a_cpu_runs_in_fp32_and_says_why(asked: str) -> None:
    chosen = resolve(asked, CPU)
    assert chosen.name == "fp32"
    assert asked in chosen.reason


@pytest.mark.parametrize(
    ("asked", "capable", "expected"),
    [("bf16", True, "bf16"), ("bf16", False, "fp32"), ("fp16", True, "bf16"), ("fp32", True, "fp32")],
)
def test_a_gpu_runs_in_bf16_only_when_it_can(
    asked: str, capable: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: capable)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    chosen = resolve(asked, CUDA)
    assert chosen.name == expected
    assert chosen.reason
