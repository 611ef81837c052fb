"""Every key of the YAML: default, unit and meaning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class ScheduleConfig:
    start: float = 0.0
    peak: float = 0.0
    end: float = 0.0
    warmup_epochs: float = 0
    cosine_epochs: float | None = None
    freeze_last_layer_epochs: float = 0


@dataclass
class SchedulesConfig:
    lr: ScheduleConfig = field(default_factory=ScheduleConfig)
    weight_decay: ScheduleConfig = field(default_factory=ScheduleConfig)
    momentum: ScheduleConfig = field(default_factory=ScheduleConfig)
    teacher_temp: ScheduleConfig = field(default_factory=ScheduleConfig)


@dataclass
class ModelConfig:
    META_ARCHITECTURE: str = 'SSLMetaArch'
    DEVICE: str = 'cuda'
    WEIGHTS: str = ''
    DTYPE: str = 'float32'


@dataclass
class ComputePrecisionConfig:
    param_dtype: str = 'bf16'
    reduce_dtype: str = 'fp32'
    sharding_strategy: str = 'SHARD_GRAD_OP'


@dataclass
class DinoConfig:
    loss_weight: float = 1.0
    global_ignore_diagonal: bool = True
    head_n_prototypes: int = 65536
    head_bottleneck_dim: int = 256
    head_norm_last_layer: bool = False
    head_nlayers: int = 3
    head_hidden_dim: int = 2048
    koleo_loss_weight: float = 0.1
    koleo_loss_distributed: bool = False
    koleo_topk: int = 1
    koleo_distributed_replicas: int = 0
    koleo_distributed_loss_group_size: Any = None
    koleo_distributed_loss_group_data: bool = True
    force_weight_norm: bool = False
    reweight_dino_local_loss: bool = False
    local_loss_weight_schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(0.5, 0.5, 0.5))


@dataclass
class IbotConfig:
    loss_weight: float = 1.0
    mask_sample_probability: float = 0.5
    mask_ratio_min_max: list[Any] = field(default_factory=lambda: [0.1, 0.5])
    mask_random_circular_shift: bool = False
    force_masking_even_with_zero_weight: bool = False
    separate_head: bool = True
    head_n_prototypes: int = 65536
    head_bottleneck_dim: int = 256
    head_norm_last_layer: bool = False
    head_nlayers: int = 3
    head_hidden_dim: int = 2048


@dataclass
class GramConfig:
    use_loss: bool = False
    compute_stats: bool = False
    loss_weight: float = 1.0
    ema_teacher: bool = False
    ckpt: Any = None
    it_load_ema_teacher: int = -1
    rep_update: bool = True
    update_frequency: int = 50000
    it_first_update: int = 0
    max_updates: Any = None
    normalized: bool = True
    img_level: bool = False
    remove_neg: bool = False
    remove_only_teacher_neg: bool = False
    tokens_used: str = 'all'
    global_teacher_resize_method: str = 'bicubic'
    global_teacher_resize_antialias: bool = False
    loss_weight_schedule: ScheduleConfig | None = None


@dataclass
class TrainConfig:
    batch_size_per_gpu: int = 64
    dataset_path: str = 'Synthetic'
    data_config: Any = None
    output_dir: str = '.'
    saveckp_freq: int = 20
    seed: int = 0
    num_workers: int = 10
    OFFICIAL_EPOCH_LENGTH: int = 1250
    monitor_gradient_norm: bool = False
    chunk_schedule: list[Any] = field(default_factory=lambda: [])
    use_teacher_head: bool = True
    learn_from_teacher_tokens: bool = False
    centering: str = 'sinkhorn_knopp'
    checkpointing: bool = False
    checkpointing_full: bool = False
    compile: bool = True
    cudagraphs: bool = False
    sharded_eval_checkpoint: bool = False
    cache_dataset: bool = False
    log_every: int = 10


@dataclass
class StudentConfig:
    arch: str = 'vit_large'
    patch_size: int = 16
    drop_path_rate: float = 0.3
    layerscale: float = 1e-05
    pretrained_weights: str = ''
    ffn_layer: str = 'mlp'
    ffn_ratio: float = 4.0
    resume_from_teacher_chkpt: str = ''
    qkv_bias: bool = True
    proj_bias: bool = True
    ffn_bias: bool = True
    norm_layer: str = 'layernorm'
    n_storage_tokens: int = 0
    mask_k_bias: bool = False
    untie_cls_and_patch_norms: bool = False
    untie_global_and_local_cls_norm: bool = False
    in_chans: int = 3
    pos_embed_type: str = 'rope'
    pos_embed_rope_base: float = 100.0
    pos_embed_rope_min_period: Any = None
    pos_embed_rope_max_period: Any = None
    pos_embed_rope_normalize_coords: str = 'separate'
    pos_embed_rope_shift_coords: Any = None
    pos_embed_rope_jitter_coords: Any = None
    pos_embed_rope_rescale_coords: Any = None
    pos_embed_rope_dtype: str = 'bf16'
    fp8_enabled: bool = False
    fp8_filter: str = 'blocks'
    embed_dim: int | None = None
    depth: int | None = None
    num_heads: int | None = None


@dataclass
class TeacherConfig:
    momentum_teacher: float = 0.992
    final_momentum_teacher: int = 1
    warmup_teacher_temp: float = 0.04
    teacher_temp: float = 0.07
    warmup_teacher_temp_epochs: int = 30
    in_chans: int = 3


@dataclass
class DistillationConfig:
    enabled: bool = False
    full_cfg_path: str = ''
    checkpoint_path: str = ''


@dataclass
class MultidistillationConfig:
    enabled: bool = False


@dataclass
class HrftConfig:
    enabled: bool = False
    checkpoint_path: str = ''


@dataclass
class OptimConfig:
    epochs: int = 100
    optimizer: str = 'adamw'
    weight_decay: float = 0.04
    weight_decay_end: float = 0.4
    lr: float = 0.001
    warmup_epochs: int = 10
    min_lr: float = 1e-06
    schedule_trunc_extra: float = 0.0
    clip_grad: float = 3.0
    freeze_last_layer_epochs: int = 1
    scaling_rule: str = 'sqrt_wrt_1024'
    patch_embed_lr_mult: float = 0.2
    dino_head_wd_multiplier: float = 1.0
    layerwise_decay: float = 0.9
    multi_tensor_optim: bool = True
    dump_fsdp_weights_path: str = ''
    adamw_beta1: float = 0.9
    adamw_beta2: float = 0.999


@dataclass
class CropsConfig:
    global_crops_scale: list[Any] = field(default_factory=lambda: [0.32, 1.0])
    local_crops_number: int = 8
    local_crops_scale: list[Any] = field(default_factory=lambda: [0.05, 0.32])
    global_crops_size: int = 224
    local_crops_size: int = 96
    global_local_crop_pairs_ratios: float = 1.0
    gram_teacher_crops_size: Any = None
    localcrops_subset_of_globalcrops: bool = False
    share_color_jitter: bool = False
    horizontal_flips: bool = True
    gram_teacher_no_distortions: bool = False
    rgb_mean: list[Any] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    rgb_std: list[Any] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    teacher_to_student_resolution_scale: float = 1.0
    global_crops_clean: bool = False
    global_crops_clean_size: Any = None
    augmentation: str = 'official'
    color_jitter_prob: Any = None
    brightness: Any = None
    contrast: Any = None
    saturation: Any = None
    hue: Any = None
    grayscale_prob: Any = None
    blur_prob_global_1: Any = None
    blur_prob_global_2: Any = None
    blur_prob_local: Any = None
    blur_sigma: Any = None
    solarize_prob_global_2: Any = None
    vertical_flips: Any = None
    rot90: Any = None


@dataclass
class EvaluationConfig:
    eval_period_iterations: int = 12500
    low_freq_every: int = 5
    config_files: dict[str, Any] = field(default_factory=lambda: {'high_freq': 'benchmark_high_frequency.yaml', 'low_freq': 'benchmark_low_frequency.yaml'})


@dataclass
class CheckpointingConfig:
    period: int = 3750
    max_to_keep: int = 3
    keep_every: int = 99999999999999999


@dataclass
class Da3Config:
    enabled: bool = False
    loss_weight: float = 1.0
    embed_dim: Any = None
    projector_hidden_dim: int = 2048
    ckpt_path: str = ''
    use_fsdp: bool = False
    variant: str = 'base'
    target: str = 'global'
    teacher_size: Any = None
    grid_mode: str = 'resize_input'
    dtype: str = 'bf16'
    loss_on: str = 'masked'
    weighting: str = 'mean'
    random_init: bool = False


@dataclass
class WandbConfig:
    enabled: bool = False
    project: str = 'dinov3'
    entity: Any = None
    name: Any = None
    mode: str = 'offline'


@dataclass
class NanConfig:
    max_consecutive: int = 10


@dataclass
class ResumeConfig:
    allow: list[Any] = field(default_factory=lambda: [])


@dataclass
class DataConfig:
    max_bad_frac: float = 0.01


@dataclass
class FeatureAnchorConfig:
    enabled: bool = False
    loss_weight: float = 1.0


@dataclass
class Config:
    MODEL: ModelConfig = field(default_factory=ModelConfig)
    compute_precision: ComputePrecisionConfig = field(default_factory=ComputePrecisionConfig)
    dino: DinoConfig = field(default_factory=DinoConfig)
    ibot: IbotConfig = field(default_factory=IbotConfig)
    gram: GramConfig = field(default_factory=GramConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    multidistillation: MultidistillationConfig = field(default_factory=MultidistillationConfig)
    hrft: HrftConfig = field(default_factory=HrftConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    crops: CropsConfig = field(default_factory=CropsConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpointing: CheckpointingConfig = field(default_factory=CheckpointingConfig)
    schedules: SchedulesConfig | None = None
    da3: Da3Config = field(default_factory=Da3Config)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    nan: NanConfig = field(default_factory=NanConfig)
    resume: ResumeConfig = field(default_factory=ResumeConfig)
    data: DataConfig = field(default_factory=DataConfig)
    feature_anchor: FeatureAnchorConfig = field(default_factory=FeatureAnchorConfig)
