"""F21: a step with a nan or inf anywhere changes nothing on any process, and a state with one is never saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dinov3.runs.checkpoint import read_tensors
from dinov3.runs.step_folders import step_folders
from tests.faults.conftest import Reference
from tests.faults.runs import Launcher, assert_same, history, whole

GRAM = {"gram__use_loss": "true", "gram__it_load_ema_teacher": 0, "gram__rep_update": "true"}
DIGESTS = "tests.faults.hooks:digests"


def records(out: Path, rank: int) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.with_name(f"digests.{rank}").read_text().splitlines()]


@pytest.mark.parametrize(
    ("ranks", "fault", "prepare", "settings"),
    [
        (2, "loss@4:1=spoil", DIGESTS, {}),
        (2, "gradient@4:0=spoil", DIGESTS, GRAM),
        (1, "gradient@4=spoil", DIGESTS, {"train__centering": "centering"}),
        pytest.param(
            2, "", "tests.faults.hooks:spoiled_batch", {"train__centering": "centering"}, marks=pytest.mark.nightly
        ),
    ],
    ids=["loss of one process", "gradient of one process", "gradient, moving centre", "input of one process"],
)
def test_f21_a_step_that_is_not_finite_changes_no_bit_of_the_state_on_any_process(
    runs: Launcher, tmp_path: Path, ranks: int, fault: str, prepare: str, settings: dict[str, object]
) -> None:
    out = tmp_path / "run"
    codes = runs.run(
        out, ranks=ranks, fault=fault, prepare=prepare, env={"DIGESTS": str(tmp_path / "digests")}, **settings
    )
    assert codes == [0] * ranks
    for rank in range(ranks):
        rows = records(out, rank)
        assert [row["taken"] for row in rows] == [step != 4 for step in range(12)]
        assert [row["before"] == row["after"] for row in rows] == [step == 4 for step in range(12)]
    assert [row["skipped_steps"] for row in history(out)] == [0] * 4 + [1] * 8


def test_f21_the_count_of_skipped_steps_survives_a_kill(runs: Launcher, tmp_path: Path) -> None:
    whole_run, killed = tmp_path / "whole", tmp_path / "killed"
    assert runs.run(whole_run, fault="loss@4=spoil") == [0]
    assert runs.run(killed, fault="loss@4=spoil,step@8=kill") == [-9]
    assert runs.run(killed) == [0]
    assert_same(killed, whole_run)
    assert history(killed)[-1]["skipped_steps"] == 1


def test_f21_too_many_in_a_row_end_all_processes_with_a_dump_and_the_last_good_state(
    runs: Launcher, reference: Reference, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    fault = ",".join(f"loss@{step}:1=spoil" for step in range(4, 12))
    assert runs.run(out, ranks=2, fault=fault, nan__max_consecutive=2) == [70, 70]
    text = (tmp_path / "run.log").read_text()
    assert "3 steps in a row were not finite" in text
    assert whole(out) == [3], "the save that was due at step 6 was left out"
    state = read_tensors(step_folders(out)[-1] / "state", prefix="")
    assert all(bool(torch.isfinite(t).all()) for t in state.values())
    for rank in (0, 1):
        dump = out / "not_finite" / "step-00000006"
        report = json.loads((dump / f"process-{rank}.json").read_text())
        assert report["step"] == 6
        assert len(report["images"]) == 4
        assert report["first_tensor_not_finite"] == {"batch": None, "gradients": None, "state": None}
        assert load_file(dump / f"process-{rank}.safetensors")["collated_global_crops"].shape == (8, 3, 32, 32)
    assert runs.run(out, ranks=2) == [0, 0], "what was wrong is mended: the same command goes on"
    assert_same(out, reference(2))


@pytest.mark.parametrize("ranks", [1, 2])
def test_f21_a_state_that_is_not_finite_is_never_saved(runs: Launcher, tmp_path: Path, ranks: int) -> None:
    out = tmp_path / "run"
    assert runs.run(out, ranks=ranks, prepare="tests.faults.hooks:spoiled_ema") == [70] * ranks
    assert "step 6: model_ema." in (tmp_path / "run.log").read_text()
    assert whole(out) == [3]
    state = read_tensors(step_folders(out)[-1] / "state", prefix="")
    assert all(bool(torch.isfinite(t).all()) for t in state.values())
