from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3.config.load import load_config
from dinov3.contracts import CropBatch, StepContext, StudentView, TeacherView
from dinov3.models.vit import DinoVisionTransformer
from dinov3.objectives.feature_anchor import FeatureAnchor
from dinov3.objectives.feature_distillation import PROJECTOR, FeatureDistillation
from dinov3.runs.checkpoint import read_tensors
from dinov3.runs.step_folders import step_folders
from dinov3.system.rows import read_rows
from dinov3.teachers.frozen import FeatureTeacher
from dinov3.train.command import main
from dinov3.weights.own import load_backbone, write_backbone
from tests.train.tiny import command

N, P, D = 4, 9, 6  # crops, patches, width
ANCHOR = "feature_anchor.enabled=true"


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


MASKS = randn(N, P, seed=9) > 0.5
CLS, PATCHES, FROZEN_CLS, FROZEN_PATCHES = (
    randn(N, D, seed=0),
    randn(N, P, D, seed=1),
    randn(N, D, seed=2),
    randn(N, P, D, seed=3),
)


def context(name: str, heads: nn.ModuleDict | None = None, width: int = D) -> StepContext:
    pixels = torch.zeros(N, 1, 1, 1)
    batch = CropBatch(pixels, pixels[:0], MASKS, torch.zeros(0), torch.zeros(0), torch.zeros(1), 9, 2)
    view = StudentView(CLS.unflatten(0, (2, 2)), torch.zeros(2, 2, 1), PATCHES, (3, 3))
    frozen = TeacherView(cls=FROZEN_CLS, patches=FROZEN_PATCHES)
    if width != D:
        frozen = TeacherView(cls=randn(N, width, seed=4), patches=randn(N, P, width, seed=5))
    return StepContext(0, batch, view, view, heads or nn.ModuleDict(), {name: frozen})


def anchor(*overrides: str) -> Tensor:
    return FeatureAnchor(load_config(None, [ANCHOR, *overrides]))(context("feature_anchor")).value


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return 1 - torch.stack([F.cosine_similarity(x, y, dim=0) for x, y in zip(a, b, strict=True)])


@pytest.mark.parametrize(
    ("tokens", "chosen"), [("all", torch.ones(N, P, dtype=torch.bool)), ("masked", MASKS), ("unmasked", ~MASKS)]
)
def test_the_term_is_the_mean_distance_of_cls_plus_that_of_the_chosen_patches(tokens: str, chosen: Tensor) -> None:
    expected = 2 * cosine(CLS, FROZEN_CLS).mean() + 3 * cosine(PATCHES[chosen], FROZEN_PATCHES[chosen]).mean()
    weights = ["feature_anchor.cls_weight=2", "feature_anchor.patch_weight=3", f"feature_anchor.tokens={tokens}"]
    torch.testing.assert_close(anchor(*weights), expected)


def test_l2_counts_in_units_of_the_frozen_features() -> None:
    squared = (CLS - FROZEN_CLS).square().sum(-1) / FROZEN_CLS.square().sum(-1)
    torch.testing.assert_close(anchor("feature_anchor.loss=l2", "feature_anchor.patch_weight=0"), squared.mean())


def test_its_weight_may_follow_a_schedule() -> None:
    schedule = "feature_anchor.loss_weight_schedule={start: 4, peak: 4, end: 0}"
    objective = FeatureAnchor(load_config(None, [ANCHOR, schedule, "optim.epochs=10", "train.OFFICIAL_EPOCH_LENGTH=2",
                                                 "teacher.warmup_teacher_temp_epochs=0"]))  # fmt: skip
    assert objective.weight_at(0) == 4
    assert objective.weight_at(19) == pytest.approx(0)


def test_a_projector_exists_only_when_widths_differ() -> None:
    cfg = load_config(None, ["feature_distillation.enabled=true", "feature_distillation.checkpoint=x"])
    assert FeatureDistillation(cfg, D, D).student_modules() == {}
    objective = FeatureDistillation(cfg, D, 11)
    heads = nn.ModuleDict(objective.student_modules())
    heads[PROJECTOR].init_weights(torch.Generator().manual_seed(0))  # type: ignore[operator]
    ctx = context("feature_distillation", heads, width=11)
    projector = heads[PROJECTOR]
    frozen = ctx.teachers["feature_distillation"]
    expected = cosine(projector.cls(CLS), frozen.cls).mean()  # type: ignore[operator]
    expected = expected + cosine(projector.patch(PATCHES).flatten(0, 1), frozen.patches.flatten(0, 1)).mean()  # type: ignore[operator]
    torch.testing.assert_close(objective(ctx).value, expected)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A backbone of another width, patch size and normalisation than the tiny run's."""
    backbone = DinoVisionTransformer(embed_dim=48, depth=1, num_heads=2, patch_size=16, pos_embed_rope_dtype="fp32")
    backbone.init_weights(torch.Generator().manual_seed(0))
    folder = tmp_path / "teacher"
    folder.mkdir()
    write_backbone(folder, backbone, {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "size": 64})
    return folder


def on(teacher: Path) -> dict[str, object]:
    return {"feature_distillation__enabled": "true", "feature_distillation__checkpoint": teacher}


def test_the_teacher_sees_crops_of_its_own_size_and_statistics_on_the_students_grid(teacher: Path) -> None:
    cfg = load_config(None, ["feature_distillation.enabled=true", f"feature_distillation.checkpoint={teacher}"])
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (cfg.crops.rgb_mean, cfg.crops.rgb_std))
    found = FeatureTeacher(cfg, torch.device("cpu")).features((pixels - mean) / std, (4, 4))
    larger = F.interpolate((pixels - 0.5) / 0.5, (64, 64), mode="bicubic", antialias=True)
    expected = load_backbone(teacher)(larger, is_training=True)
    assert found.patches.shape == (2, 16, 48)
    torch.testing.assert_close(found.patches, expected.patches, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.cls, expected.cls, rtol=1e-4, atol=1e-4)


def test_patches_of_another_grid_are_interpolated(teacher: Path) -> None:
    changes = [f"feature_distillation.checkpoint={teacher}", "feature_distillation.input_size=96"]
    cfg = load_config(None, ["feature_distillation.enabled=true", *changes])
    assert FeatureTeacher(cfg, torch.device("cpu")).features(torch.zeros(1, 3, 32, 32), (4, 4)).patches.shape == (
        1,
        16,
        48,
    )


def test_a_student_learns_another_backbones_features_and_keeps_it_out_of_its_checkpoints(
    teacher: Path, tmp_path: Path
) -> None:
    alone = {"dino__loss_weight": 0, "ibot__loss_weight": 0, "dino__koleo_loss_weight": 0, "optim__lr": 0.02}
    fast = {"optim__warmup_epochs": 0, "optim__scaling_rule": "none", "student__layerscale": 1.0}
    out = tmp_path / "run"
    assert main(command(out, **on(teacher), **alone, **fast)) == 0
    rows = read_rows(out / "metrics.jsonl")
    assert rows[-1]["feature_distillation_loss"] < 0.8 * rows[0]["feature_distillation_loss"]
    assert rows[-1]["total_loss"] == pytest.approx(rows[-1]["feature_distillation_loss"])
    assert rows[0]["feature_projector_grad_norm"] > 0
    names = read_tensors(step_folders(out)[-1] / "state", prefix="")
    assert "student.feature_projector.cls.weight" in names
    assert not [n for n in names if "teacher" in n]


def test_a_teacher_that_is_not_there_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(tmp_path / "run", **on(tmp_path / "nothing"))) == 78
    assert "nothing" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
