"""Every shipped recipe trains two steps when its model, its crops and its data are made small."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dinov3.config.load import load_config, load_stages
from dinov3.models.build import build_backbone
from dinov3.runs.step_folders import step_folders
from dinov3.system.rows import read_rows
from dinov3.train import stem
from dinov3.train.command import main
from dinov3.weights.own import write_backbone
from tests.train.three_stages import FOLDERS, command
from tests.train.tiny import OVERRIDES

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "configs" / "train").glob("*.yaml"))
LABELLED = "Synthetic:n=24:size=32"
SMALL = [
    "student.arch=vit_small",
    "student.embed_dim=32",
    "student.depth=2",
    "student.num_heads=2",
    "student.patch_size=8",
    "crops.global_crops_size=32",
    "crops.local_crops_size=16",
    "dino.head_n_prototypes=16",
    "dino.head_hidden_dim=32",
    "dino.head_bottleneck_dim=16",
    "ibot.head_n_prototypes=16",
    "ibot.head_hidden_dim=32",
    "ibot.head_bottleneck_dim=16",
    "train.dataset_path=Synthetic:n=40:size=40",
    "train.batch_size_per_gpu=4",
    "train.num_workers=0",
    "train.log_every=1",
    "train.max_steps=2",
    "head_warmup.steps=1",
    "evaluation.pictures=false",
    "evaluation.drift.images=4",
]


def overrides_for(path: Path, tmp_path: Path) -> list[str]:
    """``SMALL``, and small files in place of those the recipe asks for."""
    cfg = load_config(path)
    changes = list(SMALL)
    if cfg.evaluation.knn.train is not None:
        changes += [f"evaluation.knn.{part}={LABELLED}" for part in ("train", "test")]
        changes += ["evaluation.knn.max_train=24", "evaluation.knn.max_test=8"]
    if cfg.evaluation.drift.dataset is not None:
        changes.append("evaluation.drift.dataset=Synthetic:n=8:size=32")
    if cfg.crops.gram_teacher_crops_size is not None:
        changes += ["crops.gram_teacher_crops_size=48", "crops.global_local_crop_pairs_ratios=1.0"]
    if cfg.gram.ckpt is not None:
        changes += ["gram.ckpt=null", "gram.it_load_ema_teacher=0"]
    if cfg.da3.enabled:
        changes += ["da3.random_init=true", "da3.variant=small", "da3.dtype=fp32", "da3.ckpt_path="]
    for key, wanted in (
        ("student.pretrained_weights", cfg.student.pretrained_weights),
        ("feature_distillation.checkpoint", cfg.feature_distillation.checkpoint),
    ):
        if wanted:
            changes.append(f"{key}={written_backbone(path, tmp_path)}")
    return changes


def runs_alone(path: Path) -> bool:
    """Stages are run by the test below, several students by tests/faults/test_students.py."""
    stages = load_stages(path)
    return len(stages) == 1 and not stages[0].cfg.multidistillation.enabled


def written_backbone(path: Path, tmp_path: Path) -> Path:
    """A random backbone of the small recipe's architecture, as a run writes it."""
    cfg = load_config(path, SMALL)
    backbone = build_backbone(cfg.student, img_size=32, drop_path=False)
    backbone.to_empty(device="cpu")
    backbone.init_weights(torch.Generator().manual_seed(0))  # type: ignore[operator]
    folder = tmp_path / "backbone"
    folder.mkdir(exist_ok=True)
    write_backbone(folder, backbone, {"mean": cfg.crops.rgb_mean, "std": cfg.crops.rgb_std, "size": 32})
    return folder / "backbone.safetensors"


@pytest.mark.parametrize("path", [p for p in RECIPES if runs_alone(p)], ids=lambda p: p.stem)
def test_two_steps_of_a_recipe(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stem, "PAIRS", 256)
    out = tmp_path / "run"
    arguments = ["--config-file", str(path), "--output-dir", str(out), *overrides_for(path, tmp_path)]
    assert main(arguments) == 0
    rows = read_rows(out / "metrics.jsonl")
    assert [row["iteration"] for row in rows] == [0, 1]
    assert rows[1]["skipped_steps"] == 0
    assert step_folders(out)[-1].name == "step-00000002"


def test_the_recipe_of_three_stages_trains_two_steps_of_each(tmp_path: Path) -> None:
    replaced = (
        "optim.epochs",
        "optim.warmup_epochs",
        "teacher.warmup_teacher_temp_epochs",
        "train.OFFICIAL_EPOCH_LENGTH",
    )
    tiny = {k: v for k, v in OVERRIDES.items() if k not in replaced} | {
        "train.max_steps": 2,
        "train.compile": "false",
        "evaluation.pictures": "false",
        "stage.gram.crops.gram_teacher_crops_size": 48,
        "stage.high_res.crops.global_crops_size": [32, 48, 48, 48, 48],
        "stage.high_res.crops.local_crops_size": [16, 16, 24, 24, 32],
        "stage.high_res.crops.gram_teacher_crops_size": [48, 64, 64, 64, 64],
    }
    assert (
        main(
            command(ROOT / "configs" / "train" / "three_stages.yaml", tmp_path, *[f"{k}={v}" for k, v in tiny.items()])
        )
        == 0
    )
    rows = [read_rows(tmp_path / folder / "metrics.jsonl") for folder in FOLDERS]
    assert [[row["iteration"] for row in stage] for stage in rows] == [[0, 1]] * 3
    assert [all(row.get("gram_loss", 0) > 0 for row in stage) for stage in rows] == [False, True, True]


def test_every_recipe_stands_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    assert [p.name for p in RECIPES if f"configs/train/{p.name}" not in text] == []
