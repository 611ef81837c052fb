from __future__ import annotations

import pytest
import torch

from dinov3.engine import precision
from dinov3.engine.precision import resolve

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("asked", ["bf16", "fp16", "fp32", "auto"])
def test_a_cpu_runs_in_fp32_and_says_why(asked: str) -> None:
    chosen = resolve(asked, CPU)
    assert chosen.name == "fp32"
    assert chosen.reason == {
        "fp32": "as the config says",
        "fp16": "fp16 autocast is for GPUs, cpu runs in fp32",
    }.get(asked, "bf16 autocast is for GPUs, cpu runs in fp32")


@pytest.mark.parametrize("able", [True, False])
def test_a_cpu_that_would_be_faster_in_bf16_says_so(able: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "multiplies_bf16", lambda: able)
    chosen = resolve("bf16", CPU, "fp32")
    assert chosen.name == "fp32"
    assert ("auto would be bf16" in chosen.reason) == able


@pytest.mark.parametrize(
    ("param_dtype", "cpu_dtype", "able", "expected"),
    [
        ("bf16", "auto", True, "bf16"),
        ("bf16", "auto", False, "fp32"),
        ("bf16", "bf16", True, "bf16"),
        ("bf16", "bf16", False, "bf16"),
        ("fp32", "bf16", True, "fp32"),
        ("fp32", "auto", True, "fp32"),
    ],
)
def test_a_cpu_runs_in_bf16_where_that_is_asked_for_or_faster(
    param_dtype: str, cpu_dtype: str, able: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "multiplies_bf16", lambda: able)
    chosen = resolve(param_dtype, CPU, cpu_dtype)
    assert chosen.name == expected
    assert ("may be faster" in chosen.reason) == (expected == "bf16" and not able)


@pytest.mark.parametrize("unit", [None, "_is_amx_tile_supported", "_is_avx512_bf16_supported"])
def test_a_processor_multiplies_bf16_with_either_kind_of_instruction(
    unit: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name == unit)
    assert precision.multiplies_bf16() == (unit is not None)


def test_other_devices_run_in_fp32_and_say_why() -> None:
    chosen = resolve("bf16", torch.device("mps"), "auto")
    assert chosen.name == "fp32"
    assert chosen.reason == "bf16 autocast is for GPUs, mps runs in fp32"


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
