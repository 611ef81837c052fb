"""Every key of a fine-tuning run: its own schema, so that a key of pretraining that nothing here reads is refused."""

# ruff: noqa: RUF009 - key() makes a dataclass field
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal

from dinov3.config.blocks.train import LoopConfig, TaskOptimConfig
from dinov3.config.kind import Schema
from dinov3.config.run_config import RunBlocks
from dinov3.config.spec import key

AS_LR = "null: optim.lr"
SELECTABLE = Literal["AUROC", "AUPRC", "NLL", "Brier", "ECE", "Acc", "Sens95", "BalancedAcc"]


@dataclass
class ClassifierConfig:
    """The backbone, the head on it, and what of both trains."""

    weights: str = key("", "the backbone: a run, an export, a compressed model, or weights of others", path=True)
    preset: str | None = key(None, "released model the weights are of, when the file cannot tell")
    size: int | None = key(None, "side of the square images are resized to; null: as the weights say", unit="px", ge=1)
    pool: Literal["cls", "mean", "cls+mean"] = key("cls", "tokens the head sees: class token, mean of patches, or both")
    method: Literal["head_only", "lora", "fullft"] = key("head_only", "what trains: the head, adapters too, or all")
    train_norms_bias: Literal["none", "norms", "bias", "both"] = key(
        "none", "of the backbone, with head_only and lora: norms (and LayerScale), biases, or both train too"
    )
    head: str = key("", "classifier whose head is where training begins; empty: a new head", path=True)
    adapters: str = key(
        "",
        "adapters in peft's layout to begin with: rank, alpha and layers are theirs; empty: new ones as `lora` says",
        path=True,
    )


@dataclass
class AdapterConfig:
    """LoRA, when model.method is lora."""

    rank: int = key(8, "rank of a change", ge=1)
    alpha: float = key(16.0, "a change is multiplied by alpha / rank", gt=0)
    rslora: bool = key(False, "by alpha / sqrt(rank) in place of it")
    dropout: float = key(0.0, "share of an adapter's inputs that a step leaves out", ge=0, lt=1)
    targets: list[str] = key(
        ["q", "k", "v", "proj"], "layers that get one: q, k, v are row blocks of the fused qkv", nonempty=True
    )
    mlp: bool = key(True, "the layers of the MLP too, plain or gated")


@dataclass
class FinetuneLoopConfig(LoopConfig):
    num_workers: int = key(8, "threads that read and resize images; the result does not depend on it", ge=0)
    dataset_path: str = key("", "labelled images to train on: a path, or Name:key=value:...", nonempty=True, fixed=True)
    classes: int | None = key(None, "number of classes; null: as the training set has", ge=2, fixed=True)
    positive: str | None = key(
        None, "name of the class that is positive, of two; null: the last in the order of names or numbers", fixed=True
    )
    label_smoothing: float = key(0.0, "share of each label given to all classes, in training only", ge=0, lt=1)
    cache: str | None = key(None, "folder of cached features of a frozen backbone; null: in the run folder", path=True)


@dataclass
class AugmentConfig:
    preset: Literal["none", "flips", "photographs", "histology"] = key(
        "none", "flips: left to right; photographs: and colours; histology: all flips and turns, colours a little"
    )
    scale: list[float] = key(
        [1.0, 1.0], "least and largest share of the image that is cut out; 1: whole", length=2, ordered=True, gt=0, le=1
    )
    stain: bool = key(False, "Reinhard's stain normalisation of every image, in evaluation too", fixed=True)


@dataclass
class FinetuneOptimConfig(TaskOptimConfig):
    """``lr`` is the head's."""

    backbone_lr: float | None = key(None, f"peak learning rate of the backbone, with fullft; {AS_LR}", gt=0)
    lora_lr: float | None = key(None, f"peak learning rate of adapters; {AS_LR}", gt=0)
    norms_bias_lr: float | None = key(None, f"peak learning rate of what model.train_norms_bias names; {AS_LR}", gt=0)
    layerwise_decay: float = key(1.0, "learning rate falls by this factor a block, from last to first", gt=0, le=1)


@dataclass
class PrecisionConfig:
    param_dtype: Literal["bf16", "fp32"] = key("bf16", "number format of matrix products on a GPU")
    cpu_dtype: Literal["bf16", "fp32", "auto"] = key(
        "fp32",
        "number format of matrix products on a CPU. auto: bf16 where the processor multiplies matrices in it (AMX, AVX-512 bf16; the run says so)",
    )


@dataclass
class JudgeConfig:
    validation: str | None = key(
        None, "labelled images that select the weights, never trained on; null: the last are kept"
    )
    test: str | None = key(None, "labelled images that are scored once, at the end, and select nothing")
    period: int | None = key(None, "steps between two validations; null: an epoch", unit="steps", ge=1)
    select: SELECTABLE = key("AUROC", "metric on validation by which weights are selected; ties: the lower NLL")
    max_images: int | None = key(
        None, "images of validation scored while training, evenly spread; null (or features that are kept): all", ge=2
    )
    batch_size: int = key(128, "images scored at once", ge=1)
    tta: bool = key(False, "at the end: the mean probability over the eight turns and mirror images")
    temperature: bool = key(True, "at the end: a temperature fitted on validation, reported beside the plain scores")
    bootstrap: int = key(1000, "resamples of the 95 % intervals; 0: none", ge=0)


@dataclass
class ClassifyConfig(RunBlocks):
    """One fine-tuning of a classifier."""

    task: Literal["classify"] = key("classify", "what is fine-tuned", fixed=True)
    model: ClassifierConfig = key(ClassifierConfig, "the backbone and what trains", fixed=True)
    lora: AdapterConfig = key(AdapterConfig, "low-rank adapters, with model.method=lora", fixed=True)
    train: FinetuneLoopConfig = key(FinetuneLoopConfig, "data, batch, run folder, seed")
    optim: FinetuneOptimConfig = key(FinetuneOptimConfig, "length of training, optimizer, schedules")
    augment: AugmentConfig = key(AugmentConfig, "changes of the training images")
    compute_precision: PrecisionConfig = key(PrecisionConfig, "number formats")
    evaluation: JudgeConfig = key(JudgeConfig, "validation, selection, and the scores of the end")


def _checks(cfg: ClassifyConfig) -> Iterator[tuple[str, str]]:
    method, norms = cfg.model.method, cfg.model.train_norms_bias
    if not cfg.model.weights:
        yield "model.weights", "is missing: give a run, an export or a file of weights"
    if not cfg.train.dataset_path:
        yield "train.dataset_path", "is missing: give labelled images, for example PCam:root=FOLDER:split=train"
    for name in ("validation", "test"):
        if getattr(cfg.evaluation, name) is not None and getattr(cfg.evaluation, name) == cfg.train.dataset_path:
            yield f"evaluation.{name}", "is train.dataset_path: give images that were not trained on"
    if cfg.evaluation.test is not None and cfg.evaluation.test == cfg.evaluation.validation:
        yield "evaluation.test", "is evaluation.validation, which selects: give other images"
    if norms != "none" and method == "fullft":
        yield "model.train_norms_bias", "is for head_only and lora: fullft trains them anyway; set it to none"
    yield from _idle(cfg)
    if cfg.optim.min_lr > cfg.optim.lr:
        yield "optim.min_lr", f"{cfg.optim.min_lr:g} is above optim.lr {cfg.optim.lr:g}: lower it"


def _idle(cfg: ClassifyConfig) -> Iterator[tuple[str, str]]:
    """Keys that were given and would do nothing."""
    method, norms = cfg.model.method, cfg.model.train_norms_bias
    lora, still = AdapterConfig(), method == "head_only" and norms == "none" and cfg.augment == AugmentConfig()
    validated = cfg.evaluation.validation is not None
    changed = [f"lora.{f.name}" for f in fields(lora) if getattr(cfg.lora, f.name) != getattr(lora, f.name)]
    keys = {
        "optim.backbone_lr": (cfg.optim.backbone_lr, method == "fullft", "model.method=fullft"),
        "optim.lora_lr": (cfg.optim.lora_lr, method == "lora", "model.method=lora"),
        "optim.norms_bias_lr": (cfg.optim.norms_bias_lr, norms != "none", "model.train_norms_bias"),
        "optim.layerwise_decay": (
            None if cfg.optim.layerwise_decay == 1 else 1,
            method != "head_only" or norms != "none",
            "training of the backbone",
        ),
        "model.adapters": (cfg.model.adapters or None, method == "lora", "model.method=lora"),
        "train.cache": (cfg.train.cache, still, "model.method=head_only, no trained norms and no augmentation"),
        "evaluation.period": (cfg.evaluation.period, validated, "evaluation.validation"),
        "evaluation.max_images": (cfg.evaluation.max_images, validated, "evaluation.validation"),
        **dict.fromkeys(changed, (1, method == "lora", "model.method=lora")),
    }
    for name, (value, read, needs) in keys.items():
        if value is not None and not read:
            yield name, f"does nothing without {needs}: leave it out"


CLASSIFY = Schema(root=ClassifyConfig, checks=(_checks,))
