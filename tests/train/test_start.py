"""A run that starts from given weights: student, EMA and Gram teacher begin with them, and a resumed run keeps its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dinov3.models.build import build_backbone
from dinov3.runs.checkpoint import read_tensors
from dinov3.runs.step_folders import step_folders
from dinov3.system.errors import EXIT_CONFIG
from dinov3.train.command import main
from dinov3.train.model import load_pretrained
from dinov3.train.ssl_meta_arch import SSLMetaArch
from dinov3.weights.own import load_backbone
from tests.distributed.processes import Phase, Run, run_phases
from tests.train.tiny import command, tiny_config


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flat .pth as Meta releases them, of the tiny student's architecture."""
    model = build_backbone(tiny_config().student, img_size=32)
    model.init_weights(torch.Generator().manual_seed(77))
    path = tmp_path_factory.mktemp("weights") / "backbone.pth"
    torch.save(dict(model.state_dict()), path)
    return path


def backbone_at_start(path: Path) -> dict[str, Tensor]:
    return dict(torch.load(path, weights_only=True))


def test_student_ema_and_gram_teacher_begin_with_the_file(weights: Path) -> None:
    cfg = tiny_config(student__pretrained_weights=weights, gram__use_loss=True, gram__it_load_ema_teacher=0)
    model = SSLMetaArch(cfg)
    model.init_weights(torch.Generator().manual_seed(0))
    lines = load_pretrained(model)
    expected = backbone_at_start(weights)
    for module in (model.student, model.model_ema, model.gram_teacher):
        state = module["backbone"].state_dict()
        assert all(torch.equal(state[k], v) for k, v in expected.items())
    assert model.pretrained is not None
    assert not model.pretrained.has_heads
    assert f"loaded {len(expected)}/{len(expected)} tensors" in "\n".join(lines)
    for name in ("dino_head", "ibot_head"):
        student, ema = model.student[name].state_dict(), model.model_ema[name].state_dict()
        assert all(torch.equal(student[k], ema[k]) for k in student)


def test_the_report_is_printed_and_kept_and_a_resumed_run_reads_nothing_again(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "moved.pth"
    moved.write_bytes(weights.read_bytes())
    other = {"student__pretrained_weights": moved, "head_warmup__when": "never"}
    assert main(command(tmp_path / "run", train__max_steps=2, **other)) == 0
    assert "heads missing: they start fresh" in capsys.readouterr().out
    first = json.loads((step_folders(tmp_path / "run")[-1] / "train_state.json").read_text())["pretrained"]
    assert (first["path"], first["layout"], first["heads"]) == (str(moved), "Meta", [])
    moved.unlink()
    assert main(command(tmp_path / "run", train__max_steps=4, **other)) == 0
    assert f"{moved} was read at step 0" in capsys.readouterr().out
    last = step_folders(tmp_path / "run")[-1]
    assert json.loads((last / "train_state.json").read_text())["pretrained"] == first
    trained = load_backbone(last).state_dict()
    assert not torch.equal(trained["cls_token"], backbone_at_start(weights)["cls_token"])


def test_other_weights_cannot_be_slipped_under_a_run_that_began(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tmp_path, train__max_steps=1)) == 0
    assert main(command(tmp_path, student__pretrained_weights=weights, train__max_steps=2)) == EXIT_CONFIG
    assert "student.pretrained_weights: this run was started with ''" in capsys.readouterr().err


def test_weights_that_do_not_fit_leave_no_folder(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(command(out, student__pretrained_weights=weights, student__n_storage_tokens=0)) == EXIT_CONFIG
    assert "student.n_storage_tokens: 0, the file has 2 storage tokens: set it to 2" in capsys.readouterr().err
    assert not out.exists()


def test_a_run_goes_on_from_the_heads_and_backbone_of_another(tmp_path: Path) -> None:
    assert main(command(tmp_path / "a", train__max_steps=2)) == 0
    other = {"student__resume_from_teacher_chkpt": tmp_path / "a", "train__max_steps": 1, "train__seed": 5}
    assert main(command(tmp_path / "b", optim__lr=1e-12, optim__min_lr=0, **other)) == 0
    source, target = (read_tensors(step_folders(tmp_path / n)[-1] / "state", "model_ema.") for n in "ab")
    assert source.keys() == target.keys()
    # EMA between equal models: m * w + (1 - m) * w is w up to the last bit
    assert all(torch.allclose(source[k], target[k], rtol=0, atol=1e-6) for k in source)


def test_two_processes_start_from_the_same_weights(weights: Path, tmp_path: Path) -> None:
    changes = {"student__pretrained_weights": weights, "optim__lr": 1e-12, "optim__min_lr": 0}
    changes["head_warmup__when"] = "never"
    run_phases([Phase(Run("two", 1, {**changes, "train__batch_size_per_gpu": 4}), 2)], tmp_path)
    found = load_backbone(tmp_path / "two").state_dict()
    assert all(torch.allclose(found[k], v, rtol=0, atol=1e-6) for k, v in backbone_at_start(weights).items())
