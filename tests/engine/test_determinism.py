from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dinov3.engine.determinism import determinism
from dinov3.train.command import main
from tests.train.tiny import command, tiny_config


def flags() -> list[object]:
    return [
        torch.are_deterministic_algorithms_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        torch.backends.cudnn.deterministic,
        torch.backends.cuda.cudnn_sdp_enabled(),
    ]


def test_everything_is_on_inside_and_as_before_outside() -> None:
    before = flags()
    with determinism(tiny_config()) as said:
        assert said == []
        assert flags() == before
    with determinism(tiny_config(train__deterministic=True)) as said:
        assert "train.deterministic" in said[0]
        assert flags() == [True, False, True, False]
    assert flags() == before


def test_the_compiler_is_told_where_there_is_a_gpu_and_forgets_it_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not inductor.deterministic
    with determinism(tiny_config(train__deterministic=True, train__device="auto")):
        assert inductor.deterministic
    assert not inductor.deterministic


def test_an_error_puts_everything_back() -> None:
    before = flags()

    def fail() -> None:
        with determinism(tiny_config(train__deterministic=True)):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert flags() == before


def test_a_run_with_gram_and_anchor_trains_deterministically_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"gram__use_loss": True, "gram__ema_teacher": True, "feature_anchor__enabled": True}
    words = command(tmp_path, train__max_steps=2, train__deterministic=True, evaluation__pictures=False, **more)
    assert main(words) == 0
    assert "repeatable train.deterministic" in capsys.readouterr().out
    assert not torch.are_deterministic_algorithms_enabled()
