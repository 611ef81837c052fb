"""Blocks of the loss terms: dino (with KoLeo), ibot, gram, da3."""

# ruff: noqa: RUF009 - key() makes a dataclass field
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dinov3.config.spec import key

Dtype = Literal["bf16", "fp16", "fp32"]


@dataclass
class ScheduleConfig:
    """Linear from start to peak, then cosine from peak to end, then end."""

    start: float = key(0.0, "value at the first step", required=True)
    peak: float = key(0.0, "value after the warm-up", required=True)
    end: float = key(0.0, "value after the cosine", required=True)
    warmup_epochs: float = key(0.0, "from start to peak", unit="epochs", ge=0)
    cosine_epochs: float | None = key(None, "from peak to end; null: to the end of training", unit="epochs", ge=0)
    freeze_last_layer_epochs: float = key(
        0.0, "learning rate of the heads' last layers is 0 so long; only in schedules.lr", unit="epochs", ge=0
    )


@dataclass
class DinoConfig:
    loss_weight: float = key(1.0, "weight of the CLS-token loss", ge=0)
    global_ignore_diagonal: bool = key(True, "leave out the pairs student crop = teacher crop")
    head_n_prototypes: int = key(65536, "prototypes of the head", ge=1, fixed=True)
    head_bottleneck_dim: int = key(256, "width before the prototypes", ge=1, fixed=True)
    head_norm_last_layer: bool = key(False, "DINO v1's weight-normed last layer", dead=True, fixed=True)
    head_last_layer_std: float = key(
        0.02,
        "std of the prototypes at the start; with 0.02 short runs stay at a loss of ln K, with 0.6 they leave it",
        gt=0,
        fixed=True,
    )
    head_nlayers: int = key(3, "layers of the head's MLP", ge=1, fixed=True)
    head_hidden_dim: int = key(2048, "width of the head's MLP", ge=1, fixed=True)
    koleo_loss_weight: float = key(0.1, "weight of KoLeo, which spreads the CLS tokens of a batch", ge=0)
    koleo_loss_distributed: bool = key(False, "KoLeo over all processes instead of each alone")
    koleo_topk: int = key(1, "neighbours a sample is pushed away from, when distributed", ge=1)
    koleo_distributed_replicas: int = key(0, "processes per KoLeo group", ge=0, dead=True)
    koleo_distributed_loss_group_size: int | None = key(
        None, "samples neighbours are looked for in, when distributed; null: all", unit="images", ge=1
    )
    koleo_distributed_loss_group_data: bool = key(True, "groups of neighbouring processes", dead=True)
    force_weight_norm: bool = key(False, "weight norm of the last layer", dead=True)
    reweight_dino_local_loss: bool = key(False, "weigh the local crops by local_loss_weight_schedule")
    local_loss_weight_schedule: ScheduleConfig = key(
        lambda: ScheduleConfig(0.5, 0.5, 0.5), "weight of the local crops in the CLS-token loss"
    )


@dataclass
class IbotConfig:
    loss_weight: float = key(1.0, "weight of the masked-patch loss", ge=0)
    mask_sample_probability: float = key(0.5, "share of the global crops that are masked", ge=0, le=1)
    mask_ratio_min_max: list[float] = key(
        [0.1, 0.5], "least and largest share of masked patches in such a crop", length=2, ordered=True, ge=0, le=1
    )
    mask_random_circular_shift: bool = key(False, "roll each mask by a random offset")
    force_masking_even_with_zero_weight: bool = key(False, "draw masks although loss_weight is 0", dead=True)
    separate_head: Literal[True] = key(True, "iBOT has its own head", fixed=True)
    head_n_prototypes: int = key(65536, "prototypes of the head", ge=1, fixed=True)
    head_bottleneck_dim: int = key(256, "width before the prototypes", ge=1, fixed=True)
    head_norm_last_layer: bool = key(False, "DINO v1's weight-normed last layer", dead=True, fixed=True)
    head_last_layer_std: float = key(
        0.02,
        "std of the prototypes at the start; with 0.02 short runs stay at a loss of ln K, with 0.6 they leave it",
        gt=0,
        fixed=True,
    )
    head_nlayers: int = key(3, "layers of the head's MLP", ge=1, fixed=True)
    head_hidden_dim: int = key(2048, "width of the head's MLP", ge=1, fixed=True)


@dataclass
class GramConfig:
    use_loss: bool = key(False, "keep patch similarities close to those of an older teacher", fixed=True)
    source: Literal["init", "ema", "self", "path"] | None = key(
        None,
        "where the older teacher comes from: the weights this run starts from, the EMA teacher as it is, a copy of it "
        "from it_load_ema_teacher on, the file ckpt; null: as the three keys below say",
    )
    compute_stats: bool = key(False, "log similarity statistics")
    loss_weight: float = key(1.0, "weight of the term", ge=0)
    ema_teacher: bool = key(False, "the EMA teacher is the Gram teacher", fixed=True)
    ckpt: str | None = key(None, "weights of the Gram teacher", path=True)
    it_load_ema_teacher: int = key(
        -1, "step at which the EMA teacher is copied into the Gram teacher; -1: never", unit="steps", ge=-1
    )
    rep_update: bool = key(True, "copy the EMA teacher again every update_frequency steps")
    update_frequency: int = key(50000, "steps between two copies", unit="steps", ge=1)
    it_first_update: int = key(0, "step of the first copy", unit="steps", ge=0)
    max_updates: int | None = key(None, "copies at most; null: no limit", ge=0)
    normalized: bool = key(True, "L2-normalise the patches first")
    img_level: bool = key(False, "similarities within an image instead of within the batch")
    remove_neg: bool = key(False, "set negative similarities of both sides to 0")
    remove_only_teacher_neg: bool = key(False, "set negative similarities of the teacher to 0")
    remove_only_teacher_neg_rule: Literal["official", "published"] = key(
        "official",
        "official: what DINOv3's code does, the student's stay; published: what it was written to do, the student's "
        "become 0 where the teacher's were negative too",
    )
    max_tokens: int | None = key(
        None,
        "compare so many tokens at most, the same ones of student and teacher: of each image with img_level, else of "
        "the batch; null: all",
        ge=2,
    )
    tokens_used: Literal["all", "masked", "unmasked"] = key("all", "patches the term looks at")
    global_teacher_resize_method: Literal["bicubic", "bilinear", "nearest", "area"] = key(
        "bicubic", "how teacher patches are brought to the student's grid"
    )
    global_teacher_resize_antialias: bool = key(False, "antialias that resize")
    loss_weight_schedule: ScheduleConfig | None = key(None, "weight over time, in place of loss_weight")


@dataclass
class Da3Config:
    enabled: bool = key(False, "pull masked patches towards Depth Anything 3's tokens of the clean crop")
    loss_weight: float = key(1.0, "weight of the term", ge=0, fixed=False)
    embed_dim: int | None = key(None, "width of the teacher's tokens; null: the variant's own", ge=1)
    projector_hidden_dim: int = key(2048, "width of the projector's hidden layer", ge=1)
    ckpt_path: str = key("", "file or folder with the teacher's weights", path=True, fixed=False)
    use_fsdp: bool = key(False, "shard the frozen teacher over processes", fixed=False)
    variant: Literal["small", "base", "large", "giant", "mono-large", "metric-large"] = key(
        "base", "which Depth Anything 3"
    )
    target: Literal["global", "local", "full", "full_normalized"] = key(
        "global", "half of the teacher's tokens to match, or both; full_normalized: each half normalised"
    )
    teacher_size: int | None = key(None, "side of the teacher's input; null: that of its grid", unit="px", ge=14)
    grid_mode: Literal["resize_input", "interpolate_tokens"] = key(
        "resize_input", "how the teacher's grid is made equal to the student's"
    )
    dtype: Dtype = key("bf16", "number format of the teacher's matrix products", fixed=False)
    loss_on: Literal["masked", "all"] = key("masked", "patches the term looks at")
    weighting: Literal["mean", "per_image"] = key("mean", "mean over tokens, or iBOT's weights")
    random_init: bool = key(False, "a teacher without weights, for tests")
