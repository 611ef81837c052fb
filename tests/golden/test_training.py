from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.golden.__main__ import main
from tests.golden.case import Case
from tests.golden.cases_training import RUNNERS

DATA = Path(__file__).parent / "data"
CASES = ["D01_ssl_base", "D04_ssl_gram_separate_hires", "D06_ssl_reweight_local_untie_koleodist", "D08_ssl_distill"]


@pytest.mark.parametrize("name", CASES)
def test_training_steps_equal_those_of_the_official_code(name: str) -> None:
    case = Case(DATA / name)
    RUNNERS["D"](case)
    assert case.checked > 60
    assert case.failures == []


@pytest.mark.nightly  # a minute of compilation; each piece is held to its plain form daily, where it lives
def test_every_golden_case_has_its_numbers_with_every_fused_piece_on(capsys: pytest.CaptureFixture[str]) -> None:
    torch._dynamo.reset()
    threads = torch.get_num_threads()
    failed = main([str(DATA), "--fused", "aot_eager"])
    torch.set_num_threads(threads)
    said = capsys.readouterr().out
    assert not failed, said
    assert f"{len(list(DATA.glob('*.json')))} passed, 0 failed, 0 skipped" in said


def test_a_wrong_number_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dinov3.objectives.dino.STUDENT_TEMP", 0.1001)
    case = Case(DATA / "D01_ssl_base")
    RUNNERS["D"](case)
    assert any(f.startswith("fb/total_loss") for f in case.failures)


def test_checkpoints_have_the_official_names() -> None:
    case = Case(DATA / "F02_checkpoint_layouts")
    RUNNERS["F02"](case)
    assert case.checked == 3
    assert case.failures == []
