"""Every key of the YAML: type, default, limits and meaning. The blocks stand in ``blocks_*.py``."""

# ruff: noqa: RUF009 - key() makes a dataclass field
from __future__ import annotations

from dataclasses import dataclass

from dinov3.config.blocks.continued import FeatureAnchorConfig, FeatureDistillationConfig, HeadWarmupConfig, LoraConfig
from dinov3.config.blocks.data import CropsConfig, DataConfig, DenseConfig, DriftConfig, EvaluationConfig, KnnConfig
from dinov3.config.blocks.loss import (
    Da3Config,
    DinoConfig,
    GramConfig,
    IbotConfig,
    ScheduleConfig,
)
from dinov3.config.blocks.model import (
    ComputePrecisionConfig,
    DistillationConfig,
    DistilledStudentConfig,
    HrftConfig,
    ModelConfig,
    MultidistillationConfig,
    StudentConfig,
    TeacherConfig,
)
from dinov3.config.blocks.train import (
    CheckpointingConfig,
    DatasetPart,
    LoggingConfig,
    NanConfig,
    OptimConfig,
    ResumeConfig,
    SchedulesConfig,
    StartConfig,
    TrainConfig,
    WandbConfig,
)
from dinov3.config.spec import key

__all__ = [
    "CheckpointingConfig",
    "ComputePrecisionConfig",
    "Config",
    "CropsConfig",
    "Da3Config",
    "DataConfig",
    "DatasetPart",
    "DenseConfig",
    "DinoConfig",
    "DistillationConfig",
    "DistilledStudentConfig",
    "DriftConfig",
    "EvaluationConfig",
    "FeatureAnchorConfig",
    "FeatureDistillationConfig",
    "GramConfig",
    "HeadWarmupConfig",
    "HrftConfig",
    "IbotConfig",
    "KnnConfig",
    "LoggingConfig",
    "LoraConfig",
    "ModelConfig",
    "MultidistillationConfig",
    "NanConfig",
    "OptimConfig",
    "ResumeConfig",
    "ScheduleConfig",
    "SchedulesConfig",
    "StartConfig",
    "StudentConfig",
    "TeacherConfig",
    "TrainConfig",
    "WandbConfig",
]


@dataclass
class Config:
    """One training run. Blocks and keys are DINOv3's; `data`, `logging`, `nan`, `resume`, `wandb` and all from `da3` on are ours."""

    MODEL: ModelConfig = key(ModelConfig, "leftovers of the published YAML")
    compute_precision: ComputePrecisionConfig = key(ComputePrecisionConfig, "number formats and sharding")
    dino: DinoConfig = key(DinoConfig, "loss on CLS tokens, and KoLeo")
    ibot: IbotConfig = key(IbotConfig, "loss on masked patches, and the masks")
    gram: GramConfig = key(GramConfig, "loss on patch similarities (Gram anchoring)")
    train: TrainConfig = key(TrainConfig, "data, batch, run folder, seed, memory")
    student: StudentConfig = key(StudentConfig, "the backbone", fixed=True)
    teacher: TeacherConfig = key(TeacherConfig, "EMA momentum and temperature, when `schedules` is null")
    distillation: DistillationConfig = key(DistillationConfig, "one frozen teacher")
    multidistillation: MultidistillationConfig = key(MultidistillationConfig, "one frozen teacher, many students")
    hrft: HrftConfig = key(HrftConfig, "high-resolution fine-tuning")
    optim: OptimConfig = key(OptimConfig, "length of training, optimizer, and the schedules when `schedules` is null")
    crops: CropsConfig = key(CropsConfig, "crops and augmentation")
    evaluation: EvaluationConfig = key(EvaluationConfig, "measurements during training")
    checkpointing: CheckpointingConfig = key(CheckpointingConfig, "when checkpoints are written and dropped")
    schedules: SchedulesConfig | None = key(None, "schedules in DINOv3's second style; null: from optim and teacher")
    da3: Da3Config = key(Da3Config, "Depth Anything 3 as a teacher of masked patches", fixed=True)
    logging: LoggingConfig = key(LoggingConfig, "where metrics go beside metrics.jsonl")
    wandb: WandbConfig = key(WandbConfig, "Weights & Biases")
    nan: NanConfig = key(NanConfig, "what to do about losses and gradients that are not finite")
    resume: ResumeConfig = key(ResumeConfig, "continuing a run")
    data: DataConfig = key(DataConfig, "unreadable images")
    feature_anchor: FeatureAnchorConfig = key(FeatureAnchorConfig, "loss on the distance to the features at the start")
    feature_distillation: FeatureDistillationConfig = key(
        FeatureDistillationConfig, "loss on the distance to the features of a frozen backbone", fixed=True
    )
    head_warmup: HeadWarmupConfig = key(HeadWarmupConfig, "fresh heads on a trained backbone", fixed=True)
    lora: LoraConfig = key(LoraConfig, "low-rank training of the backbone", fixed=True)
    start: StartConfig = key(StartConfig, "continuing from another run, as the stages of a file do")
