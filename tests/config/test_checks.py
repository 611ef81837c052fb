"""What must hold between keys: each rule refuses the bad case with one exact line and lets its neighbour pass."""

from __future__ import annotations

import pytest

from dinov3.config.checks_continued import refuse_an_idle_backbone
from dinov3.config.derived import clean_crop_size, da3_input_size
from dinov3.config.errors import ConfigError
from dinov3.config.load import load_config

SCHEDULES = "schedules={lr: {start: 0, peak: 1e-3, end: 0}, weight_decay: {start: 0, peak: 0, end: 0}, \
momentum: {start: 0.9, peak: 0.9, end: 1}, teacher_temp: {start: 0.04, peak: 0.07, end: 0.07}}"

# (arguments that fit, one more that does not, the line after "command line: ")
RULES = {
    "global crop": (
        ["crops.global_crops_size=240"],
        "crops.global_crops_size=225",
        "crops.global_crops_size: 225 is not a multiple of student.patch_size 16: use 224 or 240",
    ),
    "local crop": (
        ["student.patch_size=14", "crops.local_crops_size=98"],
        "crops.local_crops_size=100",
        "crops.local_crops_size: 100 is not a multiple of student.patch_size 14: use 98 or 112",
    ),
    "crop below one patch": (
        [],
        "crops.local_crops_size=9",
        "crops.local_crops_size: 9 is not a multiple of student.patch_size 16: use 16",
    ),
    "Gram crop": (
        ["crops.gram_teacher_crops_size=512"],
        "crops.gram_teacher_crops_size=520",
        "crops.gram_teacher_crops_size: 520 is not a multiple of student.patch_size 16: use 512 or 528",
    ),
    "local crops out of global ones": (
        ["crops.localcrops_subset_of_globalcrops=true", "crops.local_crops_size=224"],
        "crops.local_crops_size=240",
        "crops.localcrops_subset_of_globalcrops: true, but crops.local_crops_size 240 cannot be cut out of "
        "crops.global_crops_size 224: lower it, or set this to false",
    ),
    "stem of an odd patch": (
        ["student.stem=whitened", "crops.global_crops_size=210", "crops.local_crops_size=90", "student.patch_size=10"],
        "student.patch_size=15",
        "student.patch_size: 15, but a whitened stem wants it even: use 16, or student.stem=patch",
    ),
    "stem of a ConvNeXt": (
        ["student.arch=convnext_tiny", "student.patch_size=32"],
        "student.stem=whitened",
        "student.stem: whitened is for vision transformers: set it to patch with convnext_tiny",
    ),
    "warm-up": (
        ["optim.epochs=40", "optim.warmup_epochs=40"],
        "optim.warmup_epochs=41",
        "optim.warmup_epochs: is 41, training only has optim.epochs 40: shorten it or train longer",
    ),
    "warm-up of the temperature": (
        ["optim.epochs=30"],
        "optim.epochs=29",
        "teacher.warmup_teacher_temp_epochs: is 30, training only has optim.epochs 29: shorten it or train longer",
    ),
    "warm-up in the second style": (
        [SCHEDULES, "optim.epochs=5", "schedules.lr.warmup_epochs=5"],
        "schedules.lr.warmup_epochs=5.5",
        "schedules.lr.warmup_epochs: is 5.5, training only has optim.epochs 5: shorten it or train longer",
    ),
    "cosine after the warm-up": (
        [SCHEDULES, "optim.epochs=5", "schedules.momentum.warmup_epochs=2", "schedules.momentum.cosine_epochs=3"],
        "schedules.momentum.cosine_epochs=4",
        "schedules.momentum.cosine_epochs: ends at epoch 6, training only has optim.epochs 5: shorten it or train longer",
    ),
    "schedule of the local loss": (
        ["dino.reweight_dino_local_loss=true", "dino.local_loss_weight_schedule.warmup_epochs=100"],
        "dino.local_loss_weight_schedule.warmup_epochs=101",
        "dino.local_loss_weight_schedule.warmup_epochs: is 101, training only has optim.epochs 100: "
        "shorten it or train longer",
    ),
    "frozen last layer": (
        [SCHEDULES, "schedules.lr.freeze_last_layer_epochs=1"],
        "schedules.momentum.freeze_last_layer_epochs=1",
        "schedules.momentum.freeze_last_layer_epochs: only schedules.lr can freeze the last layers: set it to 0",
    ),
    "last learning rate": (
        ["optim.lr=1e-6"],
        "optim.lr=1e-7",
        "optim.min_lr: 1e-06 is above optim.lr 1e-07: lower it",
    ),
    "learning rate in the second style": (
        # published: the high-resolution stage warms up by the cosine alone
        [SCHEDULES, "schedules.lr.peak=0", "schedules.lr.end=1.25e-5"],
        "schedules.lr.end=0",
        "schedules.lr.peak: 0 leaves the learning rate at 0 or below: it must be > 0",
    ),
    "negative schedule": (
        [SCHEDULES],
        "schedules.weight_decay.end=-1",
        "schedules.weight_decay.end: -1 is out of range: it must be >= 0",
    ),
    "temperature of 0": (
        [SCHEDULES],
        "schedules.teacher_temp.start=0",
        "schedules.teacher_temp.start: 0 is out of range: it must be > 0",
    ),
    "momentum above 1": (
        [SCHEDULES],
        "schedules.momentum.end=1.01",
        "schedules.momentum.end: 1.01 is out of range: it must be <= 1",
    ),
    "RoPE base and period": (
        [],
        "student.pos_embed_rope_min_period=2",
        "student.pos_embed_rope_base: 100 and a period are both given: set one of them to null",
    ),
    "RoPE without anything": (
        [],
        "student.pos_embed_rope_base=null",
        "student.pos_embed_rope_base: null needs pos_embed_rope_min_period and pos_embed_rope_max_period",
    ),
    "RoPE periods": (
        [
            "student.pos_embed_rope_base=null",
            "student.pos_embed_rope_min_period=1",
            "student.pos_embed_rope_max_period=9",
        ],
        "student.pos_embed_rope_min_period=9",
        "student.pos_embed_rope_min_period: 9 is not below pos_embed_rope_max_period 9",
    ),
    "heads": (
        ["student.embed_dim=192", "student.num_heads=3"],
        "student.num_heads=5",
        "student.num_heads: 5, but the width 192 is not a multiple of 4 * 5, which RoPE needs: "
        "use 1, 2, 3, 4, 6, 8, 12, 16, 24 or 48",
    ),
    "heads of an arch": (
        ["student.arch=vit_small"],
        "student.num_heads=7",
        "student.num_heads: 7, but the width 384 is not a multiple of 4 * 7, which RoPE needs: "
        "use 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48 or 96",
    ),
    "width": (
        ["student.arch=vit_small", "student.embed_dim=192"],
        "student.embed_dim=200",
        "student.embed_dim: 200 is not a multiple of 4 * student.num_heads = 24, which RoPE needs: use 192 or 216",
    ),
    "width of no number of heads": (
        ["student.num_heads=2"],
        "student.embed_dim=190",
        "student.embed_dim: 190 is not a multiple of 4 * student.num_heads = 8, which RoPE needs: use 184 or 192",
    ),
    "width of a ConvNeXt": (
        ["student.arch=convnext_tiny", "student.patch_size=32"],
        "student.depth=3",
        "student.depth: 3 is for vision transformers: set it to null with convnext_tiny",
    ),
    "patch of a ConvNeXt": (
        ["student.arch=convnext_tiny", "student.patch_size=32"],
        "student.patch_size=8",
        "student.patch_size: 8, but a patch token of convnext_tiny stands for 32 px: set it to 32",
    ),
    "resolutions": (
        ["crops.global_crops_size=[224, 448]", "crops.local_crops_size=[96, 112]"],
        "crops.gram_teacher_crops_size=[448, 448, 896]",
        "crops.global_crops_size: [224, 448] has 2 values, crops.gram_teacher_crops_size has 3: "
        "one each for every resolution",
    ),
    "shares of resolutions": (
        ["crops.global_crops_size=[224, 448]", "crops.global_local_crop_pairs_ratios=[3, 1]"],
        "crops.global_local_crop_pairs_ratios=[1, 1, 1]",
        "crops.global_local_crop_pairs_ratios: [1.0, 1.0, 1.0] has 3 values, crops.global_crops_size has 2: "
        "one each for every resolution",
    ),
    "shares of one size": (
        [],
        "crops.global_local_crop_pairs_ratios=[0.5, 0.5]",
        "crops.global_local_crop_pairs_ratios: [0.5, 0.5] shares out resolutions, but every crop has one size: "
        "give a number",
    ),
    "patches of every resolution": (
        ["crops.global_crops_size=[224, 448]"],
        "crops.global_crops_size=[224, 450]",
        "crops.global_crops_size: 450 is not a multiple of student.patch_size 16: use 448 or 464",
    ),
    "windows at every resolution": (
        ["crops.localcrops_subset_of_globalcrops=true", "crops.global_crops_size=[96, 224]"],
        "crops.local_crops_size=112",
        "crops.localcrops_subset_of_globalcrops: true, but crops.local_crops_size 112 cannot be cut out of "
        "crops.global_crops_size 96: lower it, or set this to false",
    ),
    "DA3 grids of several resolutions": (
        ["da3.enabled=true", "crops.global_crops_size=[224, 256]"],
        "da3.teacher_size=196",
        "da3.teacher_size: 196 gives the teacher a grid of 14, the student's is 16: "
        "use null (each resolution has its own then), or da3.grid_mode=interpolate_tokens",
    ),
    "channels": (
        ["student.in_chans=1", "crops.rgb_mean=[0.5]", "crops.rgb_std=[0.2]"],
        "crops.rgb_std=[0.2, 0.2]",
        "crops.rgb_std: [0.2, 0.2] has 2 values, student.in_chans is 1",
    ),
    "KoLeo": (
        ["train.batch_size_per_gpu=2"],
        "train.batch_size_per_gpu=1",
        "train.batch_size_per_gpu: 1 leaves KoLeo without neighbours: use 2 or more, "
        "dino.koleo_loss_distributed=true, or dino.koleo_loss_weight=0",
    ),
    "DA3 grid": (
        ["da3.enabled=true", "crops.global_crops_size=256", "da3.teacher_size=224"],
        "da3.teacher_size=252",
        "da3.teacher_size: 252 gives the teacher a grid of 18, the student's is 16: "
        "use 224, or da3.grid_mode=interpolate_tokens",
    ),
    "DA3 grid of another student": (
        ["da3.enabled=true", "crops.global_crops_size=256", "da3.teacher_size=224"],
        "crops.global_crops_size=224",
        "da3.teacher_size: 224 gives the teacher a grid of 16, the student's is 14: "
        "use 196, or da3.grid_mode=interpolate_tokens",
    ),
    "DA3 patches": (
        ["da3.enabled=true", "da3.grid_mode=interpolate_tokens", "da3.teacher_size=252"],
        "da3.teacher_size=256",
        "da3.teacher_size: 256 is not a multiple of the teacher's patch 14: use 252 or 266",
    ),
    "DA3 and clean crops": (
        ["da3.enabled=true", "crops.global_crops_clean_size=196"],
        "crops.global_crops_clean_size=224",
        "crops.global_crops_clean_size: 224, but DA3 wants 196: set it to null",
    ),
    "DA3 colours": (
        ["da3.enabled=true", "crops.rgb_mean=[0]", "crops.rgb_std=[1]", "student.in_chans=1", "da3.enabled=false"],
        "da3.enabled=true",
        "da3.enabled: true, but DA3 sees RGB and student.in_chans is 1: set it to false",
    ),
    "DA3 masks": (
        ["da3.enabled=true", "ibot.mask_sample_probability=0", "da3.loss_on=all"],
        "da3.loss_on=masked",
        "da3.loss_on: masked, but no patch is ever masked: set ibot.mask_sample_probability and "
        "ibot.mask_ratio_min_max above 0, or da3.loss_on=all",
    ),
    "nothing of the frozen features": (
        ["feature_anchor.enabled=true", "feature_anchor.cls_weight=0"],
        "feature_anchor.patch_weight=0",
        "feature_anchor.cls_weight: 0, and so is feature_anchor.patch_weight: nothing is compared; set one above 0",
    ),
    "masked tokens without masks": (
        ["feature_anchor.enabled=true", "feature_anchor.tokens=masked"],
        "ibot.mask_sample_probability=0",
        "feature_anchor.tokens: masked, but no patch is ever masked: use all",
    ),
    "frozen backbone": (
        ["feature_distillation.enabled=true", "feature_distillation.checkpoint=a"],
        "feature_distillation.checkpoint=",
        "feature_distillation.checkpoint: is empty: give the frozen backbone's run folder or weight file",
    ),
    "frozen blocks": (
        ["student.patch_size=32", "student.freeze_blocks=2"],
        "student.arch=convnext_tiny",
        "student.freeze_blocks: 2 is for vision transformers: set it to 0",
    ),
    "nothing is learned": (
        ["ibot.loss_weight=0", "dino.koleo_loss_weight=0"],
        "dino.loss_weight=0",
        "dino.loss_weight: 0, and so is the weight of every other term: nothing is learned; set one above 0",
    ),
    "every block is held": (
        ["student.arch=vit_small", "student.freeze_blocks=11"],
        "student.freeze_blocks=12",
        "student.freeze_blocks: 12 holds all 12 blocks, so the backbone never trains: use at most 11",
    ),
    "adapters nowhere": (
        ["lora.enabled=true"],
        "lora.targets=[]",
        "lora.targets: is empty, so the backbone never trains: name layers, or set lora.enabled=false",
    ),
    "every step is jumped over": (
        ["train.max_steps=10"],
        "data.skip_steps=[[0, 9]]",
        "data.skip_steps: [[0, 9]] jumps over all 10 steps of the run",
    ),
    "heads alone to the end": (
        ["head_warmup.when=always", "train.max_steps=501"],
        "train.max_steps=500",
        "head_warmup.steps: 500 steps of the heads alone, but the run ends at step 500, so the backbone never trains: "
        "lower it (for example 50), or train longer",
    ),
    "drift rule": (
        ["evaluation.drift.enabled=true", "evaluation.drift.period=5", "evaluation.drift.stop_below=0.5"],
        "evaluation.drift.period=0",
        "evaluation.drift.stop_below: needs evaluation.drift.enabled=true and a period above 0",
    ),
    "k-NN rule": (
        ["evaluation.knn.train=a", "evaluation.knn.test=b", "evaluation.knn.period=5", "evaluation.knn.max_drop=0.02"],
        "evaluation.knn.period=0",
        "evaluation.knn.max_drop: needs evaluation.knn.train, .test and a period above 0",
    ),
    "k-NN sets": (
        ["evaluation.knn.train=a", "evaluation.knn.test=b"],
        "evaluation.knn.test=null",
        "evaluation.knn.test: null, but evaluation.knn.train is given: give both or none",
    ),
    "k-NN neighbours": (
        ["evaluation.knn.max_train=20"],
        "evaluation.knn.max_train=19",
        "evaluation.knn.max_train: 19 is fewer than evaluation.knn.k 20 neighbours",
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_refuses_one_step_too_far(name: str) -> None:
    fitting, too_far, expected = RULES[name]
    load_config(None, fitting)
    with pytest.raises(ConfigError) as caught:
        load_config(None, [*fitting, too_far])
    assert str(caught.value) == f"command line: {expected}"


@pytest.mark.parametrize(
    ("when", "heads_missing", "refused"),
    [("heads_missing", True, True), ("heads_missing", False, False), ("never", True, False)],
)
def test_heads_alone_to_the_end_are_refused_once_it_is_known_that_there_are_none(
    when: str, heads_missing: bool, refused: bool
) -> None:
    cfg = load_config(None, [f"head_warmup.when={when}", "train.max_steps=50"])
    if refused:
        with pytest.raises(ConfigError, match=r"head_warmup\.steps: 500 steps of the heads alone"):
            refuse_an_idle_backbone(cfg, heads_missing=heads_missing)
    else:
        refuse_an_idle_backbone(cfg, heads_missing=heads_missing)


@pytest.mark.parametrize("freed", ["dino.koleo_loss_weight=0", "dino.koleo_loss_distributed=true"])
def test_a_batch_of_one_is_fine_without_local_koleo(freed: str) -> None:
    assert load_config(None, ["train.batch_size_per_gpu=1", freed]).train.batch_size_per_gpu == 1


def test_an_unused_schedule_is_not_checked() -> None:
    load_config(None, ["dino.local_loss_weight_schedule.warmup_epochs=1000"])
    load_config(None, [SCHEDULES, "optim.epochs=2"])  # optim.warmup_epochs 10 is out of use


@pytest.mark.parametrize(("student", "patch", "teacher"), [(256, 16, 224), (224, 16, 196), (224, 14, 224), (32, 8, 56)])
def test_the_da3_teacher_is_shown_the_size_that_gives_the_students_grid(student: int, patch: int, teacher: int) -> None:
    sizes = [f"crops.global_crops_size={student}", f"student.patch_size={patch}", f"crops.local_crops_size={2 * patch}"]
    cfg = load_config(None, ["da3.enabled=true", *sizes])
    assert da3_input_size(cfg, student) == clean_crop_size(cfg, student) == teacher
    assert teacher // 14 == student // patch


def test_interpolated_da3_tokens_come_from_crops_of_the_students_size() -> None:
    cfg = load_config(None, ["da3.enabled=true", "da3.grid_mode=interpolate_tokens", "crops.global_crops_size=256"])
    assert da3_input_size(cfg, 256) == 252


def test_the_clean_crops_may_have_a_size_of_another_patch() -> None:
    assert load_config(None, ["crops.global_crops_clean_size=196"]).crops.global_crops_clean_size == 196
