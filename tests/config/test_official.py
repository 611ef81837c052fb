"""DINOv3's own training YAMLs, by their keys and numbers: each can be run, and says where it means something else here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from dinov3.config.derived import crop_sizes
from dinov3.config.errors import ConfigError
from dinov3.config.load import load_config, load_stages, load_students
from dinov3.data.resolutions import Resolutions

Tree = dict[str, Any]
PHOTOS = "train.dataset_path=/photos"
OLD_SCHEDULES_OFF = {
    "optim": dict.fromkeys(
        ("weight_decay", "weight_decay_end", "lr", "warmup_epochs", "min_lr", "schedule_trunc_extra")
    )
    | {"freeze_last_layer_epochs": None},
    "teacher": dict.fromkeys(("momentum_teacher", "final_momentum_teacher", "warmup_teacher_temp", "teacher_temp"))
    | {"warmup_teacher_temp_epochs": None},
}


def schedule(start: float, peak: float, end: float, warmup: int = 0, **more: float) -> Tree:
    return {"start": start, "peak": peak, "end": end, "warmup_epochs": warmup, **more}


def merged(*trees: Tree) -> Tree:
    out: Tree = {}
    for tree in trees:
        for name, value in tree.items():
            out[name] = (
                merged(out[name], value) if isinstance(value, dict) and isinstance(out.get(name), dict) else value
            )
    return out


HEADS = {"head_norm_last_layer": False, "head_nlayers": 3}
BIG_HEADS = {
    "dino": {"head_n_prototypes": 262144, "head_bottleneck_dim": 512, "head_hidden_dim": 8192, **HEADS},
    "ibot": {"head_n_prototypes": 98304, "head_bottleneck_dim": 384, "head_hidden_dim": 4096, **HEADS},
}
DEAD = {
    "train": {"cache_dataset": True, "fsdp_reshard_after_forward": True, "cell_augmentation": False},
    "student": {"patch_drop": 0.0, "drop_path_uniform": True, "block_chunks": 0},
}
SEVEN_B = merged(
    BIG_HEADS,
    DEAD,
    OLD_SCHEDULES_OFF,
    {
        "MODEL": {"META_ARCHITECTURE": "SSLMetaArch"},
        "train": {"batch_size_per_gpu": 16, "dataset_path": None, "OFFICIAL_EPOCH_LENGTH": 1000, "checkpointing": True},
        "student": {
            **{"arch": "vit_7b", "patch_size": 16, "drop_path_rate": 0.4, "ffn_layer": "swiglu64", "ffn_ratio": 3},
            **{"qkv_bias": False, "norm_layer": "layernormbf16", "n_storage_tokens": 4, "mask_k_bias": True},
            **{"untie_global_and_local_cls_norm": True, "pos_embed_rope_rescale_coords": 2},
            **{"pos_embed_rope_dtype": "fp32", "fp8_enabled": True, "fp8_filter": "blocks"},
        },
        "optim": {"clip_grad": 30.0, "layerwise_decay": 0.98, "adamw_beta2": 0.99},
        "crops": {"global_crops_size": 256, "local_crops_size": 112, "horizontal_flips": False},
        "checkpointing": {"period": 1000, "keep_every": 50000},
        "schedules": {"weight_decay": schedule(0.04, 0.04, 0.04), "teacher_temp": schedule(0.04, 0.07, 0.07, 100)},
    },
)
PRETRAIN = merged(
    SEVEN_B,
    {
        "optim": {"epochs": 1000},
        "schedules": {
            "lr": schedule(0, 5e-5, 5e-5, 100, freeze_last_layer_epochs=5),
            "momentum": schedule(0.994, 0.994, 0.994),
        },
    },
)
GRAM = merged(
    SEVEN_B,
    {
        "dino": {
            "reweight_dino_local_loss": True,
            "local_loss_weight_schedule": schedule(1, 1, 0.5, 1000, cosine_epochs=1),
        },
        "gram": {
            **{"use_loss": True, "ckpt": "ignore", "rep_update": True, "update_frequency": 10000, "img_level": True},
            **{"it_first_update": 1010000, "max_updates": 3},
            "loss_weight_schedule": schedule(0, 0, 2.0, 1000, cosine_epochs=1),
        },
        "optim": {"epochs": 1200},
        "crops": {"gram_teacher_crops_size": 512, "gram_teacher_no_distortions": True},
        "schedules": {
            "lr": schedule(0, 3e-5, 3e-5, 100, freeze_last_layer_epochs=5),
            "momentum": schedule(0.999, 0.999, 0.999),
        },
    },
)
HIGH_RES = merged(
    SEVEN_B,
    {
        "dino": {
            "koleo_loss_distributed": True,
            "koleo_distributed_loss_group_size": 16,
            "reweight_dino_local_loss": True,
            "local_loss_weight_schedule": schedule(0.5, 0.5, 0.5, cosine_epochs=0),
        },
        "gram": {
            **{"use_loss": True, "rep_update": False, "img_level": True, "update_frequency": 10000},
            "loss_weight_schedule": schedule(1.5, 1.5, 1.5, cosine_epochs=0),
        },
        "train": {"batch_size_per_gpu": 8},
        "optim": {"epochs": 30},
        "crops": {
            "global_crops_size": [512, 768, 768, 768, 768],
            "local_crops_size": [112, 112, 168, 224, 336],
            "global_local_crop_pairs_ratios": [0.3, 0.3, 0.3, 0.05, 0.05],
            "gram_teacher_crops_size": [768, 1152, 1152, 1152, 1152],
        },
        "schedules": {
            "lr": schedule(0, 0, 1.25e-5, freeze_last_layer_epochs=0, cosine_epochs=10),
            "teacher_temp": schedule(0.07, 0.07, 0.07),
            "momentum": schedule(0.999, 0.999, 0.999),
        },
    },
)
IMAGENET = merged(
    DEAD,
    {"train": {"dataset_path": "ImageNet:split=TRAIN"}, "student": {"arch": "vit_large", "ffn_ratio": 4.0}},
)
TEACHER = {"distillation": {"enabled": True, "full_cfg_path": "t.yaml", "checkpoint_path": "ignore"}}


def several(batch: int, **ranks: tuple[int, int]) -> Tree:
    students = [{"name": n, "config_path": f"{n}.yaml", "ranks_range": list(ends)} for n, ends in ranks.items()]
    return {"multidistillation": {"enabled": True, "global_batch_size": batch, "students": students}}


DISTILLED = merged(
    BIG_HEADS,
    DEAD,
    TEACHER,
    several(1920, vits_mlp4_4=(0, 48), vitsp_swiglu6_1=(48, 96), vitb_mlp4_3=(96, 176), vitl_mlp4_1=(176, 296)),
    {
        "train": {"batch_size_per_gpu": 3, "OFFICIAL_EPOCH_LENGTH": 1250, "checkpointing_full": True},
        "student": {
            **{"arch": "vit_large", "drop_path_rate": 0.0, "ffn_ratio": 4.0, "pos_embed_type": "ropenew"},
            **{"norm_layer": "layernormbf16", "n_storage_tokens": 4, "mask_k_bias": True, "sparse24_filter": ["mlp"]},
            **{"resume_from_teacher_chkpt": "t.pth", "pos_embed_rope_rescale_coords": 2},
        },
        "teacher": {"momentum_teacher": 0.994, "warmup_teacher_temp_epochs": 120},
        "optim": {
            **{"epochs": 20, "weight_decay_end": 0.2, "lr": 0.0002, "warmup_epochs": 0},
            **{"freeze_last_layer_epochs": 0, "layerwise_decay": 0.99},
        },
        "crops": {
            **{"global_crops_size": 256, "local_crops_size": 112, "gram_teacher_crops_size": 256},
            "horizontal_flips": False,
        },
        "coding_rate_loss": {"use_cls_loss": False, "epsilon": 8},
        "schedules": {
            "lr": schedule(0, 0, 5e-5, freeze_last_layer_epochs=0, cosine_epochs=10),
            "weight_decay": schedule(0.04, 0.04, 0.04),
            "teacher_temp": schedule(0.04, 0.07, 0.07),
            "momentum": schedule(0.994, 0.994, 1.0),
        },
    },
)
SEVERAL_TEST = merged(TEACHER, several(256, vits=(0, 1)), {"train": {"dataset_path": "ImageNet:split=TRAIN"}})


def convnext(size: str, lr: float) -> Tree:
    return {
        "ibot": {"loss_weight": 1.0, "separate_head": True, "head_hidden_dim": 2048, **HEADS},
        "student": {"arch": f"convnext_{size}", "patch_size": 16, "drop_path_rate": 0.0, "block_chunks": 4},
        "optim": {"epochs": 500, "clip_grad": 3.0, "layerwise_decay": 1.0},
        "schedules": {
            "lr": schedule(1e-6, lr, 1e-6, 80, freeze_last_layer_epochs=1),
            "weight_decay": schedule(0.04, 0.2, 0.2, 500),
            "teacher_temp": schedule(0.04, 0.07, 0.07, 120),
            "momentum": schedule(0.994, 1.0, 1.0, 500),
        },
    }


CONVNEXTS = {
    size: convnext(size, lr) for size, lr in (("tiny", 2e-4), ("small", 2e-4), ("base", 1e-4), ("large", 1e-4))
}
FILES: dict[str, tuple[Tree, list[str]]] = {  # the file, and the words its own README has beside it
    "ssl_default_config": (json.loads((Path(__file__).parent / "official_defaults.json").read_text()), []),
    "dinov3_vit7b16_pretrain": (PRETRAIN, [PHOTOS]),
    "dinov3_vit7b16_gram_anchor": (GRAM, [PHOTOS, "gram.ckpt=/teacher"]),
    "dinov3_vit7b16_high_res_adapt": (HIGH_RES, [PHOTOS, "gram.ckpt=/teacher"]),
    "vitl_im1k_lin834": (IMAGENET, []),
    **{f"convnext_{size}_p16": (tree, []) for size, tree in CONVNEXTS.items()},
    "vits_p16": ({"student": {"arch": "vit_small", "drop_path_rate": 0.1}}, []),
    "vitb_p16": ({"student": {"arch": "vit_base", "drop_path_rate": 0.1}, "train": {"checkpointing": True}}, []),
}
SAID = {  # beside the line on dead keys
    "dinov3_vit7b16_high_res_adapt": [
        "crops.local_crops_size: 168 is not a multiple of student.patch_size 16",
    ],
    **{
        f"convnext_{size}_p16": ["masks and targets are counted on its own 7 x 7 of a 224 px crop, not on 14 x 14"]
        for size in CONVNEXTS
    },
}


@pytest.mark.parametrize("name", FILES)
def test_a_published_file_runs_and_says_where_it_means_something_else(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tree, words = FILES[name]
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree))
    cfg = load_config(path, words)
    lines = [line for line in caplog.messages if "published keys do nothing" not in line]
    assert len(lines) == len(SAID.get(name, [])), lines
    assert all(said in line for said, line in zip(SAID.get(name, []), lines, strict=True))
    (again := tmp_path / "again.yaml").write_text(yaml.safe_dump(tree))
    assert load_config(again, words) == cfg


@pytest.mark.parametrize(
    ("tree", "batches"),
    [(DISTILLED, [40, 40, 24, 16]), (SEVERAL_TEST, [256])],
    ids=["dinov3_vitl16_lvd1689m_distilled", "multi_distillation_test"],
)
def test_a_published_file_of_several_students_gives_each_the_batch_it_has_there(
    tree: Tree, batches: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for student in tree["multidistillation"]["students"]:
        Path(student["config_path"]).write_text("student: {arch: vit_small, resume_from_teacher_chkpt: ''}")
    Path("all.yaml").write_text(yaml.safe_dump(tree))
    assert len(load_stages("all.yaml")) == 1
    assert [s.cfg.train.batch_size_per_gpu for s in load_students("all.yaml")] == batches


def test_several_convnexts_are_distilled_on_their_own_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for size, tree in CONVNEXTS.items():
        Path(f"{size}.yaml").write_text(yaml.safe_dump(tree))
    layout = merged(TEACHER, several(2048, tiny=(0, 2), small=(2, 4), base=(4, 6), large=(6, 8)))
    Path("all.yaml").write_text(yaml.safe_dump(layout))
    students = load_students("all.yaml", ["optim.epochs=500"])
    assert {s.cfg.student.patch_size for s in students} == {32}
    assert {s.cfg.student.drop_path_rate for s in students} == {0.0}


def test_masks_of_a_convnext_are_on_the_grid_of_its_tokens() -> None:
    cfg = load_config(None, ["student.arch=convnext_tiny", "student.patch_size=16", "train.batch_size_per_gpu=4"])
    (choice,) = Resolutions.from_config(cfg, 4).choices
    assert (choice.masks.masking.height, choice.masks.masking.width) == (7, 7)
    assert crop_sizes(cfg)[0].global_size == 224


def test_a_convnext_has_drop_path_only_when_it_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    assert load_config(None, ["student.arch=convnext_tiny"]).student.drop_path_rate == 0.0
    assert load_config(None, ["student.preset=dinov3_convnext_base"]).student.drop_path_rate == 0.0
    assert not caplog.messages
    assert load_config(None, ["student.arch=convnext_tiny", "student.drop_path_rate=0.1"]).student.drop_path_rate == 0.1
    assert "student.drop_path_rate: 0.1 counts here" in caplog.text
    assert load_config(None, ["student.arch=vit_small"]).student.drop_path_rate == 0.3


def test_a_feed_forward_of_another_width_is_named(caplog: pytest.LogCaptureFixture) -> None:
    load_config(None, ["student.ffn_ratio=4.0"])
    load_config(None, ["student.arch=vit_7b", "student.ffn_ratio=3"])
    load_config(None, ["student.preset=dinov3_vits16plus"])
    assert not caplog.messages
    assert load_config(None, ["student.ffn_ratio=6"]).student.ffn_ratio == 6
    assert "student.ffn_ratio: 6 counts here" in caplog.text
    assert "takes 4, that of vit_large" in caplog.text


def test_what_a_convnext_passes_over_is_named(caplog: pytest.LogCaptureFixture) -> None:
    words = ["student.arch=convnext_tiny", "student.patch_size=32"]
    load_config(None, [*words, "student.qkv_bias=true"])
    assert not caplog.messages
    load_config(None, [*words, "student.ffn_ratio=6", "student.n_storage_tokens=4"])
    assert "student: n_storage_tokens, ffn_ratio: a ConvNeXt has none of it: without effect" in caplog.text


def test_a_scale_between_the_resolutions_needs_a_frozen_teacher() -> None:
    words = ["crops.teacher_to_student_resolution_scale=2", "student.arch=convnext_tiny"]
    with pytest.raises(ConfigError, match="lies between a frozen teacher and its student, and there is none"):
        load_config(None, words)
    teacher = [f"distillation.{k}={v}" for k, v in TEACHER["distillation"].items()]
    assert load_config(None, [*words, *teacher]).crops.teacher_to_student_resolution_scale == 2
