"""Depth Anything 3 as a second teacher: what a run with it, and one without it, does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dinov3.contracts import CropBatch
from dinov3.data.loader import CropLoader
from dinov3.data.sources import parse_dataset
from dinov3.engine.optim import build_optimizer
from dinov3.engine.schedules import StepSchedule
from dinov3.engine.step import train_step
from dinov3.models.da3 import VARIANTS, DA3Spec
from dinov3.runs.checkpoint import read_tensors
from dinov3.runs.state import digest
from dinov3.runs.step_folders import step_folders
from dinov3.system.rows import read_rows
from dinov3.train.command import main
from dinov3.train.ssl_meta_arch import SSLMetaArch
from dinov3.train.task import Pretraining
from tests.train.test_run import TIMES
from tests.train.tiny import command, overrides, tiny_config

ON = {"da3__enabled": "true", "da3__random_init": "true", "da3__variant": "small", "da3__projector_hidden_dim": 64}
DA3_MODULES = ("dinov3.models.da3", "dinov3.teachers.da3_backbone")


@pytest.fixture(autouse=True)
def tiny_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A "small" of 0.1 M weights instead of 22 M."""
    monkeypatch.setitem(VARIANTS, "small", DA3Spec(32, 4, 2, alt_start=2))


def numbers(out: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMES} for row in read_rows(out / "metrics.jsonl")]


def final_state(out: Path) -> dict[str, Tensor]:
    return read_tensors(step_folders(out)[-1] / "state", prefix="")


def one_batch(**changes: object) -> tuple[SSLMetaArch, CropBatch]:
    cfg = tiny_config(**{**ON, **changes})
    cpu = torch.device("cpu")
    source = parse_dataset(cfg.train.dataset_path)
    with CropLoader(cfg, source, position=0, rank=0, world_size=1, device=cpu, dtype=torch.float32) as loader:
        batch = next(loader)
    model = SSLMetaArch(cfg)
    model.init_weights(torch.Generator().manual_seed(0))
    return model, batch


# ---------------------------------------------------------------------- off


def test_switched_off_it_changes_nothing_and_is_not_imported(tmp_path: Path) -> None:
    blocks = {
        "without": "",
        "off": "da3: {enabled: false, loss_weight: 7.0, embed_dim: 99, loss_on: all, random_init: true}\n",
    }
    script = (
        "import sys; from dinov3.train.command import main; code = main(sys.argv[1:]); "
        f"assert not {{*{DA3_MODULES!r}}} & sys.modules.keys(); sys.exit(code)"
    )
    for name, block in blocks.items():
        config = tmp_path / f"{name}.yaml"
        config.write_text(block + "train: {max_steps: 3}\n")
        arguments = ["--config-file", str(config), "--output-dir", str(tmp_path / name), *overrides()]
        if name == "without":  # in this process: a new one takes seconds to import torch
            assert main(arguments) == 0
            continue
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert len(numbers(tmp_path / "off")) == 3
    assert numbers(tmp_path / "off") == numbers(tmp_path / "without")
    assert digest(final_state(tmp_path / "off")) == digest(final_state(tmp_path / "without"))


def test_the_modules_that_must_not_be_imported_are_those_it_needs() -> None:
    one_batch()
    assert sys.modules.keys() >= {*DA3_MODULES}


# ---------------------------------------------------------------------- on


def test_the_total_moves_by_the_weight_times_the_term() -> None:
    totals = {}
    for weight in (0.0, 0.5, 2.0):
        model, batch = one_batch(da3__loss_weight=weight, student__drop_path_rate=0.0)
        totals[weight], terms = model.forward_backward(batch, teacher_temp=0.05, iteration=0)
    model, batch = one_batch(da3__enabled="false", da3__random_init="false", student__drop_path_rate=0.0)
    without, _ = model.forward_backward(batch, teacher_temp=0.05, iteration=0)
    assert totals[0.0].item() == without.item()
    for weight in (0.5, 2.0):
        moved = totals[weight] - totals[0.0]
        assert moved.item() == pytest.approx(weight * float(terms["da3_mim_loss"]), rel=1e-4)


@pytest.mark.parametrize("weighting", ["mean", "per_image"])
@pytest.mark.parametrize("loss_on", ["masked", "all"])
def test_teacher_tokens_are_those_of_a_loop_over_masks(loss_on: str, weighting: str) -> None:
    model, batch = one_batch(da3__loss_on=loss_on, da3__weighting=weighting)
    clean, (rows, cols) = batch.collated_global_crops_clean, (4, 4)
    assert clean is not None
    found = model.get_da3_teacher_output(clean, batch.mask_indices_list, (rows, cols)).tokens
    expected = []
    for crop, mask in zip(clean, batch.collated_masks.tolist(), strict=True):
        tokens = model.da3_teacher.encoder(crop[None])[0]  # [P, D']
        for row in range(rows):
            for col in range(cols):
                if loss_on == "all" or mask[row * cols + col]:
                    expected.append(tokens[row * cols + col])
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-5)
    assert len(set(batch.collated_masks.sum(1).tolist())) > 2, "crops hide different numbers of patches"
    loss, terms = model.forward_backward(batch, teacher_temp=0.05, iteration=0)
    assert torch.isfinite(loss)
    assert 0 < float(terms["da3_mim_loss"]) < 2


def test_the_student_and_the_projector_learn_and_the_teacher_does_not() -> None:
    model, batch = one_batch(dino__loss_weight=0, dino__koleo_loss_weight=0, ibot__loss_weight=0)
    encoder = model.da3_teacher.encoder
    before = digest(dict(encoder.state_dict()))
    model.forward_backward(batch, teacher_temp=0.05, iteration=0)
    for name in ("da3_projector", "backbone"):
        gradients = [p.grad for p in model.student[name].parameters() if p.grad is not None]
        assert any(bool(g.any()) for g in gradients), name
    assert not any(p.requires_grad or p.grad is not None for p in encoder.parameters())
    frozen = {id(p) for p in encoder.parameters()}
    assert not frozen & {id(p) for p in model.parameters()}
    assert not frozen & {id(p) for group in model.get_params_groups() for p in group.params}
    assert [k for k in model.state_dict() if "da3" in k and not k.startswith("student.da3_projector.")] == []
    assert "da3_projector" not in model.model_ema
    grouped = {id(p) for group in model.get_params_groups() for p in group.params}
    assert grouped >= {id(p) for p in model.student["da3_projector"].parameters()}
    model.train()
    assert not any(m.training for m in encoder.modules())
    assert digest(dict(encoder.state_dict())) == before


def test_fifty_steps_on_one_batch_learn_its_tokens() -> None:
    sharp = {"student__layerscale": 1.0, "student__drop_path_rate": 0.0}
    model, batch = one_batch(train__dataset_path="Synthetic:n=40:size=64", **sharp)
    cosines = overfit(model, batch, 50)
    assert abs(cosines[0]) < 0.15
    assert cosines[-1] > 0.8
    assert cosines[-1] > cosine_of_the_mean_token(model, batch) + 0.1, "more than one answer for all patches"


def overfit(model: SSLMetaArch, batch: CropBatch, steps: int) -> list[float]:
    """The mean cosine at each of ``steps`` ordinary training steps on the same batch, all losses on."""
    optimizer = build_optimizer(model.get_params_groups(), model.cfg.optim)
    now = StepSchedule(lr=3e-3, wd=0.0, momentum=0.99, teacher_temp=0.05, last_layer_lr=3e-3)
    cosines = []
    for step in range(steps):
        result = train_step(Pretraining(model), optimizer, now, batch, step=step, clip_grad=3.0)
        assert result.taken
        cosines.append(float(result.terms["da3_cos_mean"]))
    return cosines


def cosine_of_the_mean_token(model: SSLMetaArch, batch: CropBatch) -> float:
    """What a student that always predicts the mean direction would reach."""
    tokens = model.get_da3_teacher_output(batch.collated_global_crops_clean, batch.mask_indices_list, (4, 4)).tokens
    directions = torch.nn.functional.normalize(tokens, dim=-1)  # [M, D']
    return float((directions @ torch.nn.functional.normalize(directions.mean(0), dim=0)).mean())


def test_a_stopped_run_continues_bit_for_bit(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(command(whole, train__max_steps=6, **ON)) == 0
    assert main(command(parts, train__max_steps=2, **ON)) == 0
    assert main(command(parts, train__max_steps=6, **ON)) == 0
    assert numbers(parts) == numbers(whole)
    state = final_state(whole)
    assert digest(final_state(parts)) == digest(state)
    names = {k for k in state if "da3" in k}
    assert "student.da3_projector.0.weight" in names
    assert not [k for k in names if "student.da3_projector." not in k]
    rows = numbers(whole)
    logged = {"da3_mim_loss", "da3_cos_mean", "da3_cos_std", "da3_teacher_norm_mean", "da3_projector_grad_norm"}
    assert all(logged <= row.keys() for row in rows)
    assert all(row["da3_projector_grad_norm"] > 0 for row in rows)
    assert [row["da3_mim_loss"] for row in rows] == pytest.approx([1 - row["da3_cos_mean"] for row in rows], abs=1e-5)


# ---------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {},
            "da3.ckpt_path is empty: download config.json and model.safetensors of https://huggingface.co/depth-anything",
        ),
        ({"da3__ckpt_path": "/nowhere/da3"}, "da3.ckpt_path '/nowhere/da3' does not exist"),
        ({"da3__random_init": "true", "da3__embed_dim": 1024}, "da3.embed_dim is 1024, but variant 'small'"),
    ],
)
def test_a_teacher_that_cannot_be_built_is_one_line_and_78(
    changes: dict[str, object], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tmp_path / "run", da3__enabled="true", da3__variant="small", **changes)) == 78
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    if not changes:
        assert "Apache-2.0: small, base" in error
        assert "CC BY-NC 4.0: large, giant" in error
