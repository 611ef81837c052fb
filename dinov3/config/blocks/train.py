"""Blocks of the run: train, optim, schedules, checkpoints, resume, logging."""

# ruff: noqa: RUF009 - key() makes a dataclass field
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dinov3.config.blocks.loss import ScheduleConfig
from dinov3.config.spec import key


@dataclass
class DatasetPart:
    """One of several data sets."""

    path: str = key("", "a path, or Name:key=value:...", required=True, nonempty=True)
    weight: float | None = key(None, "samples in proportion to the other weights; null: joined", gt=0)


@dataclass
class LoopConfig:
    """The keys of ``train`` that every kind of run has."""

    batch_size_per_gpu: int = key(64, "images one process works on at once", unit="images", ge=1, fixed=True)
    gradient_accumulation_steps: int = key(
        1,
        "such batches of every process that make one optimizer step; schedules count optimizer steps",
        ge=1,
        fixed=True,
    )
    output_dir: str = key(".", "run folder: checkpoints, metrics, config", path=True, nonempty=True)
    seed: int = key(0, "every random draw follows from it", ge=0, le=2**63 - 1, fixed=True)
    num_workers: int = key(10, "processes that load images; the result does not depend on it", ge=0)
    max_steps: int | None = key(
        None, "stop after so many steps; schedules keep their length. null: at their end", unit="steps", ge=1
    )
    device: Literal["auto", "cpu", "cuda"] = key("auto", "where to train; auto: the GPU if there is one")
    deterministic: bool = key(
        False, "only kernels that give the same numbers every time; on GPUs slower, on CPUs they do so anyway"
    )
    log_every: int = key(10, "steps between two lines of metrics", unit="steps", ge=1)
    watchdog_seconds: float = key(
        600.0,
        "without a finished step, after which all stacks are printed and the run ends with 79; time in which it is suspended "
        "does not count",
        unit="s",
        gt=0,
    )
    watchdog_slow_seconds: float = key(
        1800.0, "the same for the first step (compilation), a checkpoint and an evaluation", unit="s", gt=0
    )


@dataclass
class TrainConfig(LoopConfig):
    OFFICIAL_EPOCH_LENGTH: int = key(
        1250, "steps in an epoch: the unit of every *_epochs key, whatever the data set's size", unit="steps", ge=1
    )
    accumulation: Literal["exact", "per_micro_batch"] = key(
        "exact",
        "exact: targets, KoLeo and other losses as of one batch of all images of the step, for kept teacher logits and "
        "a second pass; per_micro_batch: the mean over batches that know nothing of each other",
        fixed=True,
    )
    dataset_path: str | list[str | DatasetPart] = key(
        "Synthetic",
        "images to train on: a path, Name:key=value:..., or a list of these: joined, or {path, weight} each: mixed",
        nonempty=True,
        fixed=True,
    )
    data_config: str | None = key(None, "file that mixes several data sets; here train.dataset_path does")
    saveckp_freq: int = key(20, "epochs between checkpoints; checkpointing.period here", ge=0, dead=True)
    monitor_gradient_norm: bool = key(False, "log gradient norms; always logged here", dead=True)
    chunk_schedule: list[int] = key([], "left from older code", dead=True)
    use_teacher_head: bool = key(True, "left from older code", dead=True)
    learn_from_teacher_tokens: bool = key(False, "left from older code", dead=True)
    centering: Literal["sinkhorn_knopp", "centering"] = key(
        "sinkhorn_knopp", "how teacher logits become targets; centering: softmax around a moving centre", fixed=True
    )
    checkpointing: bool = key(False, "recompute part of the activations in the backward pass: less memory")
    checkpointing_full: bool = key(False, "recompute all of them: least memory, slowest")
    compile: bool = key(True, "torch.compile on GPUs")
    compile_blocks: bool = key(
        False,
        "compile the blocks of a backbone one by one, as sharding does: the first step (1.5 min for a ViT-B as one graph) "
        "comes sooner, norms are no longer fused across blocks",
    )
    cudagraphs: bool = key(False, "backbones as CUDA graphs: fewer launches, for small models on GPUs")
    sharded_eval_checkpoint: bool = key(False, "teacher checkpoints as shards; always one file here", dead=True)
    cache_dataset: bool = key(False, "keep the list of images between runs", dead=True)


@dataclass
class TaskOptimConfig:
    """The keys of ``optim`` of every kind of run but pretraining, which has DINOv3's."""

    epochs: int = key(10, "length of training: how often every sample is seen", unit="epochs", ge=1)
    lr: float = key(0.001, "peak learning rate", gt=0)
    min_lr: float = key(0.0, "last learning rate", ge=0)
    warmup_steps: int = key(0, "linear warm-up of the learning rate, before the cosine", unit="steps", ge=0)
    weight_decay: float = key(0.01, "weight decay of matrices; biases and norms have none", ge=0)
    clip_grad: float = key(1.0, "largest gradient norm of each submodule; 0: no clipping", ge=0)
    adamw_beta1: float = key(0.9, "decay of the gradient's mean", ge=0, lt=1, fixed=True)
    adamw_beta2: float = key(0.999, "decay of the gradient's square", ge=0, lt=1, fixed=True)


@dataclass
class OptimConfig:
    epochs: int = key(100, "length of training, in epochs of train.OFFICIAL_EPOCH_LENGTH steps", unit="epochs", ge=1)
    optimizer: Literal["adamw"] = key("adamw", "the only optimizer", fixed=True)
    weight_decay: float = key(0.04, "first weight decay", ge=0, replaced_by="schedules.weight_decay.start and .peak")
    weight_decay_end: float = key(0.4, "last weight decay", ge=0, replaced_by="schedules.weight_decay.end")
    lr: float = key(0.001, "peak learning rate before scaling_rule", gt=0, replaced_by="schedules.lr.peak")
    warmup_epochs: int = key(
        10, "linear warm-up of the learning rate", unit="epochs", ge=0, replaced_by="schedules.lr.warmup_epochs"
    )
    min_lr: float = key(1e-06, "last learning rate; not scaled", ge=0, replaced_by="schedules.lr.end")
    schedule_trunc_extra: float = key(
        0.0,
        "schedules are made longer by this share, then cut",
        ge=0,
        replaced_by="schedules.*.cosine_epochs",
    )
    clip_grad: float = key(3.0, "largest gradient norm of each submodule; 0: no clipping", ge=0)
    freeze_last_layer_epochs: int = key(
        1,
        "learning rate of the heads' last layers is 0 so long",
        unit="epochs",
        ge=0,
        replaced_by="schedules.lr.freeze_last_layer_epochs",
    )
    scaling_rule: Literal["linear_wrt_256", "sqrt_wrt_1024", "none"] = key(
        "sqrt_wrt_1024", "learning rate * batch/256, * 4 sqrt(batch/1024), or as given; batch over all processes"
    )
    patch_embed_lr_mult: float = key(0.2, "learning rate of the patch embedding, times this", ge=0)
    dino_head_wd_multiplier: float = key(1.0, "weight decay of the DINO head, times this", ge=0)
    layerwise_decay: float = key(
        0.9, "learning rate falls by this factor a block, from the last to the first", gt=0, le=1
    )
    multi_tensor_optim: bool = key(True, "fused optimizer steps; always here", dead=True)
    dump_fsdp_weights_path: str = key("", "folder for weights as shards", dead=True)
    adamw_beta1: float = key(0.9, "decay of the gradient's mean", ge=0, lt=1, fixed=True)
    adamw_beta2: float = key(0.999, "decay of the gradient's square", ge=0, lt=1, fixed=True)


@dataclass
class SchedulesConfig:
    """Replaces the keys of ``optim`` and ``teacher`` that carry ``replaced_by``."""

    lr: ScheduleConfig = key(
        lambda: ScheduleConfig(0.0, 1e-03, 1e-06, warmup_epochs=10, freeze_last_layer_epochs=1),
        "learning rate; peak and end follow optim.scaling_rule",
        required=True,
    )
    weight_decay: ScheduleConfig = key(lambda: ScheduleConfig(0.04, 0.04, 0.4), "weight decay", required=True)
    momentum: ScheduleConfig = key(
        lambda: ScheduleConfig(0.992, 0.992, 1.0), "EMA momentum of the teacher", required=True
    )
    teacher_temp: ScheduleConfig = key(
        lambda: ScheduleConfig(0.04, 0.07, 0.07, warmup_epochs=30),
        "temperature of the teacher's softmax",
        required=True,
    )


@dataclass
class CheckpointingConfig:
    period: int = key(3750, "steps between checkpoints", unit="steps", ge=1)
    max_to_keep: int | None = key(3, "newest checkpoints kept; null: all", ge=1)
    keep_every: int | None = key(
        99999999999999999, "a checkpoint at a multiple of it stays for ever; null: none", unit="steps", ge=1
    )
    on_error: Literal["abort", "warn"] = key(
        "abort", "a checkpoint that cannot be written ends the run with 74, or is tried again after the next period"
    )
    async_save: bool = key(
        False, "write checkpoints beside training; needs host memory for a copy of what each process holds"
    )
    preemption_notice: float = key(
        120.0, "time between the signal to stop and the kill; a save that takes longer is warned of", unit="s", gt=0
    )


@dataclass
class LoggingConfig:
    csv: bool = key(False, "also write metrics.csv and evaluation.csv")
    tensorboard: bool = key(False, "also write RUN/tensorboard; needs dinov3[tensorboard]")
    mlflow: str = key(
        "",
        "also send metrics to this MLflow tracking address, for example http://127.0.0.1:5000 or sqlite:///mlflow.db; "
        "needs dinov3[mlflow]",
    )
    mlflow_experiment: str = key("dinov3", "experiment the run is listed in there", nonempty=True)


@dataclass
class WandbConfig:
    enabled: bool = key(False, "also send metrics to Weights & Biases")
    project: str = key("dinov3", "project")
    entity: str | None = key(None, "team or user; null: your own")
    name: str | None = key(None, "name of the run; null: that of the run folder")
    mode: Literal["online", "offline", "disabled"] = key("offline", "send now, or keep on disk for `wandb sync`")
    init_timeout: float = key(
        30.0,
        "longest wait for its server: at the start beside training, at the end for what is not sent",
        unit="s",
        gt=0,
    )


@dataclass
class NanConfig:
    max_consecutive: int = key(10, "steps skipped in a row, as not finite, that end the run", unit="steps", ge=1)


OTHER_CONTENT = "dataset_content"  # a word of resume.allow


@dataclass
class ResumeConfig:
    allow: list[str] = key(
        [], f"keys that may differ from the run that is resumed; {OTHER_CONTENT}: other images than it was started with"
    )


@dataclass
class BeginConfig:
    """The key of ``start`` that every kind of run has."""

    run: str = key(
        "",
        "run folder or checkpoint of the same kind whose end is the beginning of this run; steps and schedules start at "
        "0. A later stage has `stage:NAME` here",
        path=True,
    )


@dataclass
class StartConfig(BeginConfig):
    run: str = key(
        "",
        "run folder or checkpoint whose end is the beginning of this run: student, EMA, heads and centres, and the place "
        "in the data; steps and schedules start at 0. A later stage has `stage:NAME` here",
        path=True,
    )
    student: Literal["student", "ema"] = key(
        "student", "the student starts as the student there, or as its EMA (DINOv3's later stages do)"
    )
    optimizer: bool = key(False, "take over AdamW's moments too; DINOv3's later stages start with fresh ones")
