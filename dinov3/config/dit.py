"""The schema of a diffusion transformer's training run: ``dinov3 dit train``."""

# ruff: noqa: RUF009 - key() makes a dataclass field
from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from dinov3.config.blocks.train import LoopConfig, TaskOptimConfig
from dinov3.config.kind import Schema
from dinov3.config.references import flat
from dinov3.config.run_config import RunBlocks
from dinov3.config.spec import key


@dataclass
class DitLoopConfig(LoopConfig):
    dataset_path: str = key("", "folder of shards that `dinov3 dit extract` wrote", path=True, fixed=True)
    precision: Literal["bf16", "fp32"] = key("bf16", "number format of matrix products on a GPU; a CPU runs in fp32")
    recompute: bool = key(False, "compute activations of the blocks again in the backward pass: less memory, slower")


@dataclass
class TransformerConfig:
    width: int = key(768, "of a token", ge=4)
    depth: int = key(12, "blocks", ge=1)
    heads: int = key(12, "attention heads", ge=1)
    mlp_ratio: float = key(4.0, "width of the MLP, times width", gt=0)
    features: bool = key(True, "see class token and patch features; false: text alone")
    patches: bool = key(True, "see patch features; false: of the features, the class token alone")
    positions: bool = key(True, "tell patch features where they lie")
    visual_bias: bool = key(
        False,
        "each block learns what it adds to attention on features, from -log(1 + their number) on: for a start from a "
        "model of text alone",
    )


@dataclass
class ConditionsConfig:
    uncond: float = key(0.10, "share of samples without text and features", ge=0, le=1)
    text_only: float = key(0.30, "share with text alone", ge=0, le=1)
    dino_only: float = key(0.05, "share with features alone", ge=0, le=1)
    both: float = key(0.55, "share with both", ge=0, le=1)


@dataclass
class FlowConfig:
    shift_base: float | None = key(
        4096.0,
        "times are shifted by sqrt(numbers in a latent / this), so that large latents see as much noise as small ones; "
        "null: not shifted",
        gt=0,
    )


@dataclass
class DitEmaConfig:
    momentum: float = key(0.999, "share of the averaged weights that stays at a step", ge=0, lt=1)


@dataclass
class WarmStartConfig:
    weights: str = key(
        "", "run, checkpoint or dit.safetensors to begin from, for example of text alone; empty: random", path=True
    )
    allow: list[str] = key(
        [], "tensors that may be missing there, of another shape, or left over, by the beginnings of their names"
    )


@dataclass
class RepaConfig:
    weight: float = key(0.0, "weight of 1 - cosine between tokens and the clean image's patch features; 0: off", ge=0)
    block: int = key(4, "whose tokens, counted from 1", ge=1)
    hidden: int = key(1024, "width of the projection's hidden layers", ge=1)


@dataclass
class DitValidationConfig:
    path: str = key("", "folder of shards to measure on; empty: the training set", path=True)
    samples: int = key(16, "samples of it, evenly spread; every bucket has at least two where it can", ge=2)
    period: int = key(0, "steps between two; 0: only before and after training", unit="steps", ge=0)
    steps: int = key(20, "Euler steps of a sample", unit="steps", ge=1)
    backbone: str = key(
        "", "weights whose features the Fréchet distance is measured in; empty: not measured", path=True
    )
    vae: str = key("", "folder of the VAE that made the latents, to see images; not for pixels", path=True)


@dataclass
class DitConfig(RunBlocks):
    """One training run of a diffusion transformer."""

    train: DitLoopConfig = key(DitLoopConfig, "shards, batch, run folder, seed, length")
    optim: TaskOptimConfig = key(lambda: TaskOptimConfig(lr=3e-4), "length of training, optimizer, schedules")
    transformer: TransformerConfig = key(TransformerConfig, "the model", fixed=True)
    conditions: ConditionsConfig = key(ConditionsConfig, "which samples see what; in sum 1", fixed=True)
    flow: FlowConfig = key(FlowConfig, "noise", fixed=True)
    ema: DitEmaConfig = key(DitEmaConfig, "the averaged weights, which are what samples are made with")
    warm_start: WarmStartConfig = key(WarmStartConfig, "begin with another model's weights")
    repa: RepaConfig = key(RepaConfig, "alignment of inner tokens with the features (REPA)", fixed=True)
    validation: DitValidationConfig = key(DitValidationConfig, "what is measured on the way")


# Keys that every kind of run has and that mean nothing here.
IDLE = ("data.max_bad_frac", "data.max_pixels", "data.value_range", "start.run")


def _checks(cfg: DitConfig) -> Iterator[tuple[str, str]]:
    if not cfg.train.dataset_path:
        yield "train.dataset_path", "is missing: the folder of shards that `dinov3 dit extract` wrote"
    model, shares = cfg.transformer, asdict(cfg.conditions)
    if model.width % model.heads or model.width % 4:
        yield "transformer.width", f"{model.width} with {model.heads} heads: the heads and 4 must divide it"
    if not math.isclose(sum(shares.values()), 1, abs_tol=1e-6):
        told = ", ".join(f"{name} {share:g}" for name, share in shares.items())
        yield "conditions", f"{told}: 1 in sum"
    if cfg.repa.weight and cfg.repa.block > model.depth:
        yield "repa.block", f"{cfg.repa.block}: the transformer has {model.depth} blocks"
    if cfg.repa.weight and not model.features:
        yield "repa.weight", "needs transformer.features=true"
    default, own = dict(flat(asdict(DitConfig()))), dict(flat(asdict(cfg)))
    for name in IDLE:
        if own[name] != default[name]:
            instead = "; use warm_start.weights" if name == "start.run" else ""
            yield name, f"does nothing for a diffusion transformer{instead}: leave it out"


DIT = Schema(root=DitConfig, checks=(_checks,))
