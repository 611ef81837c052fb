"""Blocks that say what is trained: number formats, student, teacher, distillation."""

# ruff: noqa: RUF009 - key() makes a dataclass field
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dinov3.config.blocks.loss import Dtype
from dinov3.config.spec import key

Arch = Literal[
    "vit_tiny",
    "vit_small",
    "vit_base",
    "vit_large",
    "vit_so400m",
    "vit_huge2",
    "vit_giant2",
    "vit_7b",
    "convnext_tiny",
    "convnext_small",
    "convnext_base",
    "convnext_large",
]
# The names of torch's ShardingStrategy.
Strategy = Literal["auto", "NO_SHARD", "SHARD_GRAD_OP", "FULL_SHARD", "HYBRID_SHARD", "_HYBRID_SHARD_ZERO2"]

Preset = Literal[
    "dinov3_vits16",
    "dinov3_vits16plus",
    "dinov3_vitb16",
    "dinov3_vitl16",
    "dinov3_vitl16__SAT493M",
    "dinov3_vitl16plus",
    "dinov3_vith16plus",
    "dinov3_vit7b16",
    "dinov3_vit7b16__SAT493M",
    "dinov3_convnext_tiny",
    "dinov3_convnext_small",
    "dinov3_convnext_base",
    "dinov3_convnext_large",
]


@dataclass
class ModelConfig:
    META_ARCHITECTURE: str = key("SSLMetaArch", "kind of training; chosen by distillation.* here", dead=True)
    DEVICE: str = key("cuda", "device; train.device here", dead=True)
    WEIGHTS: str = key("", "weights to start from; student.pretrained_weights here", dead=True)
    DTYPE: str = key("float32", "number format of the weights, always float32", dead=True)


@dataclass
class ComputePrecisionConfig:
    param_dtype: Literal["bf16", "fp16", "fp32", "auto"] = key(
        "bf16", "number format of matrix products; fp32 where the hardware has no bf16, and the run says so"
    )
    cpu_dtype: Literal["bf16", "fp32", "auto"] = key(
        "fp32",
        "number format of matrix products on a CPU, unless param_dtype is fp32. auto: bf16 where the processor multiplies "
        "matrices in it (AMX, AVX-512 bf16; the run says so), else fp32",
    )
    reduce_dtype: Dtype = key("fp32", "number format in which gradients are summed over processes")
    sharding_strategy: Strategy = key(
        "auto",
        "whole copies, shards gathered once or twice a step, the same within each machine; auto: by size",
    )
    residual_dtype: Literal["fp32", "autocast"] = key(
        "autocast",
        "number format of the tokens between the blocks of a vision transformer; autocast: that of matrix products, as in "
        "the official code (a ViT-B step on an H200: 7 % less time, 9 % less memory; with a LayerScale of 1e-5 the first steps "
        "add less than bf16 can tell). A CPU keeps fp32",
    )
    unread_tokens: Literal["auto", "compute", "skip"] = key(
        "auto",
        "tokens that no loss reads in a vision transformer's last block: its matrices behind attention pass over them with "
        "skip. auto: skip where nothing is compiled (their number changes every step)",
    )
    fused: Literal["auto", "always", "never"] = key(
        "auto",
        "losses compiled, colour changes in kernels of their own (GPUs with triton), LayerScale folded into the matrix "
        "before it, drop path drawn at once: the same numbers up to rounding. auto: on GPUs with train.compile",
    )
    fused_rotation: bool = key(
        False,
        "queries, keys and values are split and rotated in training by one kernel a crop size, and their gradients by "
        "another (GPUs with triton; elsewhere by operators): the same numbers up to rounding. Not yet timed on a GPU",
    )


@dataclass
class StudentConfig:
    preset: Preset | None = key(
        None, "released model whose architecture the student has: sets every flag below that decides it"
    )
    arch: Arch = key("vit_large", "backbone; vit_tiny is ours, for small tests")
    patch_size: int = key(16, "side of a patch; a ConvNeXt has 32, whether 16 or 32 is said", unit="px", ge=1)
    freeze_blocks: int = key(0, "hold the tokens, the patch embedding and so many first blocks; 0: none", ge=0)
    drop_path_rate: float = key(
        0.3,
        "share of the images that skip a residual branch; of a ConvNeXt none unless it is said",
        ge=0,
        lt=1,
        fixed=False,
    )
    layerscale: float | None = key(1e-05, "initial LayerScale; null or 0: no LayerScale", ge=0)
    pretrained_weights: str = key(
        "",
        "weights student and teacher start from: a Meta .pth, a Hugging Face folder or Hub id (org/name, with "
        "huggingface_hub installed), a timm safetensors file, a DCP folder, a run or an export of ours; heads start fresh "
        "when it has none",
        path=True,
    )
    pretrained_allow: list[str] = key(
        [],
        "tensors (names, beginnings or patterns) and student.* keys in which the given weights may differ",
        fixed=False,
    )
    ffn_layer: Literal["mlp", "swiglu", "swiglu32", "swiglu64", "swiglu128"] = key(
        "mlp", "feed-forward block; the number is what the hidden width is rounded up to a multiple of"
    )
    ffn_ratio: float | None = key(None, "hidden width of the feed-forward / width; null: the arch's own", gt=0)
    resume_from_teacher_chkpt: str = key("", "the same, from a checkpoint that must have the heads", path=True)
    qkv_bias: bool = key(True, "bias of the query, key and value projection")
    proj_bias: bool = key(True, "bias of the attention's output projection")
    ffn_bias: bool = key(True, "biases of the feed-forward block")
    norm_layer: Literal["layernorm", "layernormbf16", "rmsnorm"] = key(
        "layernorm", "normalisation: LayerNorm with eps 1e-6, LayerNorm with eps 1e-5, RMSNorm with eps 1e-5"
    )
    n_storage_tokens: int = key(0, "storage (register) tokens", ge=0)
    mask_k_bias: bool = key(False, "hold the key bias at zero")
    untie_cls_and_patch_norms: bool = key(False, "own last norm for the CLS and storage tokens")
    untie_global_and_local_cls_norm: bool = key(False, "own last CLS norm for local crops, in training")
    in_chans: int = key(3, "image channels", ge=1)
    stem: Literal["patch", "whitened"] = key(
        "patch",
        "how pixels become tokens: each patch times a matrix, or through filters made of the training images before the "
        "first step, for short runs on small images",
    )
    stem_filters: int | None = key(None, "filters of a whitened stem; null: half of embed_dim", ge=1)
    pos_embed_type: Literal["rope", "ropenew"] = key(
        "rope", "position embedding; both names mean axial RoPE", dead=True
    )
    pos_embed_rope_base: float | None = key(100.0, "RoPE base; null: from the two periods", gt=1)
    pos_embed_rope_min_period: float | None = key(None, "shortest RoPE period; null: from the base", gt=0)
    pos_embed_rope_max_period: float | None = key(None, "longest RoPE period; null: from the base", gt=0)
    pos_embed_rope_normalize_coords: Literal["min", "max", "separate"] = key(
        "separate", "side that patch coordinates are divided by: the shorter, the longer, or each its own"
    )
    pos_embed_rope_shift_coords: float | None = key(None, "coordinates move by up to this, in training", ge=0)
    pos_embed_rope_jitter_coords: float | None = key(None, "each axis scales by up to this factor, in training", ge=1)
    pos_embed_rope_rescale_coords: float | None = key(None, "both axes scale by up to this factor, in training", ge=1)
    pos_embed_rope_dtype: Dtype = key("bf16", "number format RoPE is computed in")
    fp8_enabled: bool = key(
        False,
        "the student's linear layers in fp8, by torchao (dinov3[fp8]), on GPUs that have it; elsewhere in param_dtype, and "
        "the run says so",
        fixed=False,
    )
    fp8_filter: str = key("blocks", "layers in fp8: a regular expression found in their name", fixed=False)
    embed_dim: int | None = key(None, "width; null: the arch's own", ge=1)
    depth: int | None = key(None, "number of blocks; null: the arch's own", ge=1)
    num_heads: int | None = key(None, "attention heads; null: the arch's own", ge=1)


@dataclass
class TeacherConfig:
    momentum_teacher: float = key(
        0.992, "first EMA momentum", ge=0, le=1, replaced_by="schedules.momentum.start and .peak"
    )
    final_momentum_teacher: float = key(1.0, "last EMA momentum", ge=0, le=1, replaced_by="schedules.momentum.end")
    warmup_teacher_temp: float = key(
        0.04, "first temperature of the teacher's softmax", gt=0, replaced_by="schedules.teacher_temp.start"
    )
    teacher_temp: float = key(
        0.07, "temperature after its warm-up", gt=0, replaced_by="schedules.teacher_temp.peak and .end"
    )
    warmup_teacher_temp_epochs: int = key(
        30,
        "linear warm-up of the temperature",
        unit="epochs",
        ge=0,
        replaced_by="schedules.teacher_temp.warmup_epochs",
    )
    in_chans: int = key(3, "image channels; student.in_chans here", ge=1, dead=True)


@dataclass
class DistillationConfig:
    enabled: bool = key(False, "train the student from a frozen larger model")
    full_cfg_path: str = key("", "config of the frozen model", path=True)
    checkpoint_path: str = key("", "weights of the frozen model", path=True)


@dataclass
class DistilledStudentConfig:
    name: str = key("", "name of the student", required=True)
    config_path: str = key("", "its config, laid over this one; from where the command runs", path=True, required=True)
    ranks_range: list[int] = key([0, 1], "first and one past the last process", length=2, ge=0, required=True)


@dataclass
class MultidistillationConfig:
    enabled: bool = key(False, "train several students from one frozen model")
    global_batch_size: int | None = key(None, "images a step over all processes", unit="images", ge=1)
    students: list[DistilledStudentConfig] = key([], "the students and the processes they run on")


@dataclass
class HrftConfig:
    enabled: bool = key(False, "high-resolution fine-tuning of a trained student")
    checkpoint_path: str = key("", "weights of the trained student")
