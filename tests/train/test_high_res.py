"""The high-resolution recipe, its model and its crops shrunk: several sizes, a Gram teacher from an earlier run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dinov3.config.load import load_config
from dinov3.data.resolutions import Resolutions
from dinov3.runs.watchdog import Watchdog
from dinov3.train.command import main
from tests.train.test_run import assert_identical, numbers
from tests.train.tiny import OVERRIDES

RECIPE = Path(__file__).resolve().parents[2] / "configs" / "train" / "vitl_high_res.yaml"
REPLACED = ("optim.warmup_epochs", "teacher.warmup_teacher_temp_epochs")  # the recipe has `schedules`
TINY = {k: v for k, v in OVERRIDES.items() if k not in REPLACED} | {
    "crops.global_crops_size": [32, 48, 48, 48, 48],
    "crops.local_crops_size": [16, 16, 20, 24, 32],  # 20: the recipe of DINOv3 has one that is not whole patches
    "crops.gram_teacher_crops_size": [48, 64, 64, 64, 64],
    "train.seed": 3,
    "optim.epochs": 2,
    "train.OFFICIAL_EPOCH_LENGTH": 3,
    "schedules.lr.cosine_epochs": 2,
    "evaluation.pictures": "false",
    "train.compile": "false",
}


def command(out: Path, **changes: object) -> list[str]:
    changed = TINY | {k.replace("__", "."): v for k, v in changes.items()}
    before = changed.get("gram.ckpt")  # its weights and its Gram teacher are those of the stage before
    changed["student.pretrained_weights"] = "" if before in (None, "null") else before
    return ["--config-file", str(RECIPE), "--output-dir", str(out), *[f"{k}={v}" for k, v in changed.items()]]


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stage before: its backbone is the Gram teacher."""
    out = tmp_path_factory.mktemp("earlier")
    assert main(command(out, gram__use_loss="false", gram__ckpt="null", train__max_steps=1)) == 0
    return out


def test_the_recipe_trains_and_continues_bit_for_bit_at_another_resolution(
    earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    patient: set[int] = set()  # steps for which the watchdog waits long: a resolution that is new may compile
    beat = Watchdog.beat

    def noted(self: Watchdog, what: str | Callable[[], str], *, slow: bool = False) -> None:
        said = what() if callable(what) else ""
        if slow and said.startswith("step "):
            patient.add(int(said.split(",")[0].removeprefix("step ")))
        beat(self, what, slow=slow)

    with monkeypatch.context() as patched:
        patched.setattr(Watchdog, "beat", noted)
        assert main(command(whole, gram__ckpt=earlier)) == 0
    rows = numbers(whole)
    assert [row["iteration"] for row in rows] == list(range(6))
    assert all(row["gram_loss"] > 0 for row in rows)
    options = [word for word in command(whole, gram__ckpt=earlier) if "=" in word]
    resolutions = Resolutions.from_config(load_config(RECIPE, options), 8)
    drawn = [resolutions.at(8 * step).geometry.local_size for step in range(6)]
    assert drawn[2] != drawn[3], "the resume is to meet another resolution"
    assert patient == {0, 1} | {step for step in range(6) if drawn[step] not in drawn[:step]}
    assert main(command(stopped, gram__ckpt=earlier, train__max_steps=3)) == 0
    assert main(command(stopped, gram__ckpt=earlier)) == 0
    assert_identical(stopped, whole)


def test_the_start_up_block_names_every_resolution(
    earlier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tmp_path, gram__ckpt=earlier, train__max_steps=2)) == 0
    out = capsys.readouterr().out
    assert "2 x 32 + 2 x 16 px, Gram 48 (30%); 2 x 48 + 2 x 16 px, Gram 64 (30%); 2 x 48 + 2 x 20 px" in out
