"""A ConvNeXt from the first step to the features of the saved backbone."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from dinov3 import features
from dinov3.config.archs import CONVNEXT_ARCHS
from dinov3.config.load import load_config
from dinov3.runs.checkpoint import read_tensors
from dinov3.runs.state import digest
from dinov3.runs.step_folders import step_folders
from dinov3.system.rows import read_rows
from dinov3.train.command import main
from dinov3.train.model import build_model
from tests.train.tiny import command

VIT = ("student.embed_dim=", "student.depth=", "student.num_heads=")


def words(out: Path, **changes: object) -> list[str]:
    given = command(
        out,
        student__arch="convnext_tiny",
        student__patch_size=32,
        student__n_storage_tokens=0,
        crops__global_crops_size=96,
        crops__local_crops_size=64,
        train__dataset_path="Synthetic:n=40:size=96",
        **changes,
    )
    return [word for word in given if not word.startswith(VIT)]


def test_a_convnext_is_trained_measured_saved_and_continued_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CONVNEXT_ARCHS, "convnext_tiny", {"depths": [1, 1, 2, 1], "dims": [8, 12, 16, 24]})
    labelled = {"evaluation__knn__train": "Synthetic:n=20:size=64", "evaluation__knn__test": "Synthetic:n=10:size=64"}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main(words(whole, train__max_steps=4, **labelled)) == 0
    assert [row["step"] for row in read_rows(whole / "evaluation.jsonl")] == [0, 4]
    assert main(words(stopped, train__max_steps=2, **labelled)) == 0
    assert main(words(stopped, train__max_steps=4, **labelled)) == 0
    states = [digest(read_tensors(step_folders(run)[-1] / "state", prefix="")) for run in (whole, stopped)]
    assert states[0] == states[1]
    look = features.load(whole, size="train", device="cpu")
    assert look.extract(torch.zeros(1, 3, 96, 96)).grid == (3, 3)


@pytest.mark.parametrize("scale", [1, 2])
def test_a_convnext_learns_from_a_vit_with_smaller_patches_on_its_own_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scale: int
) -> None:
    """Patches of 16 px: four lie in a token of 32 px. Shown crops of half the size, the teacher has the student's grid."""
    monkeypatch.setitem(CONVNEXT_ARCHS, "convnext_tiny", {"depths": [1, 1, 2, 1], "dims": [8, 12, 16, 24]})
    crops: dict[str, object] = {
        "student__patch_size": 16,
        "crops__global_crops_size": 96,
        "crops__local_crops_size": 64,
    }
    teacher = tmp_path / "teacher"
    assert main(command(teacher, train__max_steps=1, **crops)) == 0
    distilled = {
        "distillation__enabled": "true",
        "distillation__full_cfg_path": teacher / "config.yaml",
        "distillation__checkpoint_path": teacher,
        "crops__teacher_to_student_resolution_scale": scale,
    }
    assert main(words(tmp_path / "run", train__max_steps=2, **distilled)) == 0
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert all(math.isfinite(row["ibot_loss"]) for row in rows)

    given = words(tmp_path / "run", **distilled)
    model, _ = build_model(load_config(None, [w for w in given if "=" in w]), torch.device("cpu"))
    images = torch.randn(4, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    chosen = torch.tensor([0, 4, 9, 35])  # of 4 crops of 3 x 3 tokens
    shown = F.interpolate(images, (96 // scale, 96 // scale), mode="bilinear", antialias=True) if scale > 1 else images
    features = model.teacher["backbone"](shown, is_training=True)
    side = 96 // 16 // scale
    cells = features.patches.unflatten(1, (side, side))
    if scale == 1:
        cells = cells.unflatten(1, (3, 2)).unflatten(3, (3, 2)).mean((2, 4))  # four patches of each token
    expected = model.teacher["ibot_head"](cells.flatten(0, 2)[chosen])
    logits = model.get_teacher_logits(images, chosen).masked_logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_a_scale_that_gives_the_teacher_another_grid_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(CONVNEXT_ARCHS, "convnext_tiny", {"depths": [1, 1, 2, 1], "dims": [8, 12, 16, 24]})
    (tmp_path / "teacher.yaml").write_text("{student: {arch: vit_small}, dino: {head_n_prototypes: 64}}")
    distilled = {
        "distillation__enabled": "true",
        "distillation__full_cfg_path": tmp_path / "teacher.yaml",
        "distillation__checkpoint_path": "ignored",
        "ibot__head_n_prototypes": 65536,
        "crops__teacher_to_student_resolution_scale": 3,
    }
    assert main(words(tmp_path / "run", **distilled)) == 78
    said = capsys.readouterr().err
    assert "crops.teacher_to_student_resolution_scale: 3, but a patch of the student is 32 px" in said
    assert said.endswith("16 px: use 2\n")
