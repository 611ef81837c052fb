from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from dinov3.config.errors import ConfigError
from dinov3.config.schema import Config
from dinov3.distributed.parallel import ALONE
from dinov3.models import fp8
from dinov3.train.parallelize import parallelize
from dinov3.train.ssl_meta_arch import SSLMetaArch
from tests.train.tiny import tiny_config


def prepared(**changes: object) -> list[str]:
    return SSLMetaArch(tiny_config(**changes)).prepare_for_distributed_training()


def prepared_for_a_gpu(cfg: Config) -> list[str]:
    model = SSLMetaArch(cfg)
    with torch._dynamo.config.patch(recompile_limit=8):  # monkeypatch would delete it: it is no attribute of its own
        return parallelize(cfg, model.student, [model.model_ema], replace(ALONE, device_type="cuda"))


def test_a_machine_without_fp8_trains_without_it_and_says_so() -> None:
    assert "fp8: off, cpu has no fp8: layers compute in compute_precision.param_dtype" in prepared(
        student__fp8_enabled=True
    )
    assert not [line for line in prepared() if "fp8" in line]


def test_layers_of_the_student_alone_are_put_into_fp8(monkeypatch: pytest.MonkeyPatch) -> None:
    converted: list[Any] = []
    monkeypatch.setattr(fp8, "problem_with", lambda device: None)
    monkeypatch.setattr(fp8, "compute_in_fp8", lambda root, pattern: converted.append((root, pattern)) or 6)
    model = SSLMetaArch(tiny_config(student__fp8_enabled=True, student__fp8_filter="mlp"))
    assert "fp8: 6 linear layers of the student" in model.prepare_for_distributed_training()
    assert converted == [(model.student["backbone"], "mlp")]


def test_cuda_graphs_are_refused_where_there_is_no_gpu() -> None:
    with pytest.raises(ConfigError, match=r"train\.cudagraphs: true needs a GPU, and this is cpu: set it to false"):
        prepared(train__cudagraphs=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train__compile": False}, "torch.compile makes them"),
        ({"train__gradient_accumulation_steps": 2}, "overwrite each other's features"),
    ],
)
def test_cuda_graphs_are_refused_beside_what_excludes_them(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tiny_config(train__cudagraphs=True, **changes)


def test_a_filter_that_is_no_expression_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"student\.fp8_filter: .* is not a regular expression"):
        tiny_config(student__fp8_filter="(")


def test_cuda_graphs_are_of_backbones_not_of_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of masked patches, which heads see, is another in every step."""
    asked: list[Any] = []

    def compile_(function: Any, *, dynamic: bool | None, options: Any) -> Any:
        asked.append((type(function.__self__).__name__, options))
        return function

    monkeypatch.setattr(torch, "compile", compile_)
    done = prepared_for_a_gpu(tiny_config(train__cudagraphs=True))
    assert "CUDA graphs: backbones" in done
    assert {options is not None for name, options in asked if name == "DinoVisionTransformer"} == {True}
    assert {options for name, options in asked if name == "DINOHead"} == {None}


def test_a_backbone_is_compiled_block_by_block_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(torch, "compile", lambda f, **_: compiled.append(type(f.__self__).__name__) or f)
    done = prepared_for_a_gpu(tiny_config(train__compile_blocks=True, student__depth=2))
    assert "torch.compile: blocks, heads and frozen teachers" in done
    assert compiled.count("Block") == 4  # of student and teacher
    assert "DinoVisionTransformer" not in compiled


@pytest.mark.parametrize(("other", "value"), [("train__compile", False), ("train__cudagraphs", True)])
def test_blocks_that_would_not_be_compiled_are_refused(other: str, value: bool) -> None:
    with pytest.raises(ConfigError, match=r"train\.compile_blocks: true, but"):
        tiny_config(train__compile_blocks=True, **{other: value})
