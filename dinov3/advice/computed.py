"""What the rules compute: batch, length, and groups of keys that several of them set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dinov3.advice.facts import Case, described_weights

Keys = Mapping[str, Any]


def always(case: Case) -> bool:
    return True


def on_cpu(case: Case) -> bool:
    return case.machine.gpus == 0


def is_tiny(case: Case) -> bool:
    return case.data.median_side < 48


def is_small(case: Case) -> bool:
    return case.data.median_side < 128


def whitens(case: Case) -> bool:
    """Whether patches are whitened by filters made of the images: for that there are more images than channels."""
    return on_cpu(case) and case.goal == "pretrain" and is_small(case) and case.data.images >= 1000


def from_weights(case: Case) -> bool:
    return case.goal in ("continue", "high-res")


def batch_of(case: Case) -> int:
    """Images a step and process: a power of two, and no more than there are images."""
    most = 64
    if not on_cpu(case):
        # 64 images of a ViT-S at 224 px were meant for a GPU of 16 GB: see configs/train/vits_one_gpu.yaml
        most = 512 if is_tiny(case) else max(8, 2 ** int(math.log2(max(4 * case.machine.gpu_memory, 1))))
        most = min(most, 512) // (4 if case.goal == "high-res" else 1)
    return case.data.images if case.data.images < 8 else min(most, 2 ** int(math.log2(case.data.images)))


def epoch_of(case: Case) -> int:
    """Steps of one pass over the images, from 10 to 1,000: the unit of every *_epochs key."""
    return min(max(case.data.images // (batch_of(case) * max(1, case.machine.gpus)), 10), 1000)


def short_epochs(case: Case) -> Keys:
    steps = 600 if is_tiny(case) and not whitens(case) else 400
    return {"train.OFFICIAL_EPOCH_LENGTH": 20, "optim.epochs": steps // 20, "optim.warmup_epochs": 2}


def prototypes(count: int, hidden: int, bottleneck: int, std: float) -> dict[str, Any]:
    heads = {
        "head_n_prototypes": count,
        "head_hidden_dim": hidden,
        "head_bottleneck_dim": bottleneck,
        "head_last_layer_std": std,
    }
    return {f"{block}.{key}": value for block in ("dino", "ibot") for key, value in heads.items()}


def teacher(momentum: float, temperature: float) -> dict[str, Any]:
    return {
        "teacher.momentum_teacher": momentum,
        "teacher.teacher_temp": temperature,
        "teacher.warmup_teacher_temp": temperature,
        "teacher.warmup_teacher_temp_epochs": 1,
    }


PLAIN_VIT = {"student.drop_path_rate": 0.0, "student.pos_embed_rope_dtype": "fp32"}
TINY_VIT = {
    **PLAIN_VIT,
    "student.arch": "vit_small",
    "student.embed_dim": 96,
    "student.depth": 3,
    "student.num_heads": 3,
    "student.layerscale": None,
    "student.n_storage_tokens": 0,
}
RELEASED_VIT = {
    **PLAIN_VIT,
    "student.norm_layer": "layernormbf16",
    "student.n_storage_tokens": 4,
    "student.mask_k_bias": True,
}
SHORT_OPTIM = {
    "optim.lr": 0.003,
    "optim.scaling_rule": "none",
    "optim.weight_decay_end": 0.1,
    "optim.layerwise_decay": 1.0,
    "optim.patch_embed_lr_mult": 1.0,
    "optim.freeze_last_layer_epochs": 1,
    "dino.koleo_loss_weight": 0.05,
    "ibot.loss_weight": 0.1,
}
SHAPE_OPTIM = {"optim.epochs": 30}
SHAPE_COLOURS = {
    "crops.color_jitter_prob": 1.0,
    "crops.hue": 0.5,
    "crops.saturation": 0.8,
    "crops.grayscale_prob": 0.5,
}
GENTLE_OPTIM = {"optim.epochs": 10, "optim.lr": 0.0003, "dino.koleo_loss_weight": 0.5}


SMALL_CROPS = {
    "crops.global_crops_scale": [0.5, 1.0],
    "crops.local_crops_scale": [0.2, 0.5],
    "crops.blur_prob_local": 0.0,
}
TINY_CROPS = {
    "crops.global_crops_scale": [0.4, 1.0],
    "crops.local_crops_scale": [0.15, 0.4],
    "crops.blur_prob_global_2": 0.0,
    "crops.blur_prob_local": 0.0,
}


def crops(patch: int, large: int, small: int, number: int) -> dict[str, Any]:
    return {
        "student.patch_size": patch,
        "crops.global_crops_size": large,
        "crops.local_crops_size": small,
        "crops.local_crops_number": number,
    }


def crops_of_weights(case: Case) -> Keys:
    """Crops of whole patches, about as large as the images."""
    patch = int(str(described_weights(case.weights)["patch_size"]))
    large = 512 if case.goal == "high-res" else 32 if is_tiny(case) else 96 if is_small(case) or on_cpu(case) else 224
    small = max(patch, large * 3 // 7 // patch * patch)
    return {
        "crops.global_crops_size": max(2 * patch, large // patch * patch),
        "crops.local_crops_size": small,
        "crops.local_crops_number": 2 if on_cpu(case) else 6,
    }


def model_of_weights(case: Case) -> Keys:
    student = {f"student.{key}": value for key, value in described_weights(case.weights).items()}
    return {"student.pretrained_weights": case.weights, "student.drop_path_rate": 0.0, **student}


def evaluation(case: Case) -> Keys:
    return {
        "evaluation.knn.train": case.data.train,
        "evaluation.knn.test": case.data.test,
        "evaluation.knn.max_train": 5000,
        "evaluation.knn.max_test": 1000,
        "evaluation.knn.period": 200 if on_cpu(case) else 1000,
    }


def channels(case: Case) -> Keys:
    return {
        "student.in_chans": case.data.channels,
        "crops.rgb_mean": list(case.data.mean),
        "crops.rgb_std": list(case.data.std),
    }


def value_range(case: Case) -> Keys:
    assert case.data.values is not None
    _, high = case.data.values
    top = 2 ** max(8, math.ceil(math.log2(high + 1))) - 1 if high > 1 else high
    return {"data.value_range": [0, int(top) if top == int(top) else top]}
