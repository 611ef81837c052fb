"""A linear head on a backbone, and what of both trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3.contracts import Features
from dinov3.engine.optim import EMBEDDINGS, ParamGroup, parameter_rows
from dinov3.finetune.config import AdapterConfig, ClassifierConfig, FinetuneOptimConfig
from dinov3.models.backbone import Backbone
from dinov3.models.lora import LowRank, adapters_of, add_lora

HEAD_STD = 0.01  # of a new head's weights: its first probabilities are nearly equal
MLP_LAYERS = ("fc1", "fc2", "w1", "w2", "w3")
NORMS, BIASES = ("norms", "both"), ("bias", "both")


class Classifier(nn.Module):
    """Images ``[N, C, H, W]`` to logits ``[N, classes]``.

    The backbone is always in eval mode: drop path and the jitter of positions are of pretraining. Adapters and head are
    in the mode of the classifier.
    """

    def __init__(self, backbone: Backbone, classes: int, pool: str) -> None:
        super().__init__()
        self.backbone, self.pool = backbone, pool
        device = next(backbone.parameters()).device
        self.head = nn.Linear(backbone.embed_dim * (2 if pool == "cls+mean" else 1), classes, device=device)

    def init_head(self, generator: torch.Generator) -> None:
        """``generator`` lives on the CPU, so that every device begins with the same head."""
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(self.head.weight.shape, generator=generator) * HEAD_STD)
            self.head.bias.zero_()

    def features(self, images: Tensor) -> Tensor:
        """What the head sees: ``[N, D]``, or ``[N, 2D]`` with ``cls+mean``."""
        found = cast(Features, self.backbone(images, is_training=True))
        return self.pooled(found.cls, found.patches)

    def pooled(self, cls: Tensor, patches: Tensor) -> Tensor:
        """``cls [N, D]`` and ``patches [N, P, D]`` as the head takes them."""
        if self.pool == "cls":
            return cls
        mean = patches.mean(1)
        return mean if self.pool == "mean" else torch.cat([cls, mean], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits

    def train(self, mode: bool = True) -> Classifier:
        super().train(mode)
        self.backbone.eval()
        for module in self.backbone.modules():
            if isinstance(module, LowRank):
                module.train(mode)
        return self


def choose_what_trains(classifier: Classifier, cfg: ClassifierConfig, lora: AdapterConfig, seed: int) -> list[str]:
    """Freeze, and add adapters, as ``model.method`` and ``model.train_norms_bias`` say; lines of what was done.

    Adapters that are there already stay. ValueError for targets that name no layer.
    """
    backbone, lines = classifier.backbone, []
    backbone.requires_grad_(cfg.method == "fullft")
    for adapter in adapters_of(backbone).values():
        adapter.requires_grad_(True)
    if cfg.method == "lora" and not adapters_of(backbone):
        generator = torch.Generator(next(backbone.parameters()).device).manual_seed(seed)
        targets = [*lora.targets, *(mlp_layers(backbone) if lora.mlp else [])]
        trained = add_lora(
            backbone, targets, lora.rank, lora.alpha, generator, dropout=lora.dropout, rslora=lora.rslora
        )
        kind = f"rank {lora.rank}, alpha {lora.alpha:g}{', rsLoRA' if lora.rslora else ''}"
        lines.append(f"LoRA       {kind}, on {', '.join(dict.fromkeys(targets))}: {trained:,} parameters")
    for name, parameter in backbone.named_parameters():
        if is_norm_or_bias(name, cfg.train_norms_bias) and ".lora." not in name:
            parameter.requires_grad_(True)
        if name.rpartition(".")[2] == "mask_token":
            parameter.requires_grad_(False)  # no patch is masked here: decay alone would move it
    return lines


def mlp_layers(backbone: nn.Module) -> list[str]:
    """The names of the linear layers of its MLPs, plain or gated."""
    last = {name.rpartition(".")[2] for name, module in backbone.named_modules() if isinstance(module, nn.Linear)}
    return [name for name in MLP_LAYERS if name in last]


def is_norm_or_bias(name: str, which: str) -> bool:
    """Whether a parameter of the backbone is one that ``train_norms_bias=which`` trains."""
    norm = "norm" in name or "gamma" in name
    return (norm and which in NORMS) or (not norm and name.endswith("bias") and which in BIASES)


def label_of(cfg: ClassifierConfig) -> str:
    """What a result is of: ``head``, ``head+norms/bias``, ``LoRA``, ``full``. Only the first is a linear probe."""
    name = {"head_only": "head", "lora": "LoRA", "fullft": "full"}[cfg.method]
    more = {"none": "", "norms": "+norms", "bias": "+bias", "both": "+norms/bias"}[cfg.train_norms_bias]
    return name + more


def groups_of(trained: nn.Module, model: ClassifierConfig, optim: FinetuneOptimConfig) -> list[ParamGroup]:
    """Every trainable parameter once: head, backbone, adapters, norms and biases, each with its own learning rate.

    Matrices decay; biases, norms, LayerScale and tokens do not.
    """
    groups: dict[tuple[float, float], ParamGroup] = {}
    for name, parameter, lr, wd in _rows(trained, model, optim):
        group = groups.setdefault((lr, wd), ParamGroup(lr, wd, False))
        group.names.append(name)
        group.params.append(parameter)
    return list(groups.values())


def _rows(
    trained: nn.Module, model: ClassifierConfig, optim: FinetuneOptimConfig
) -> Iterator[tuple[str, nn.Parameter, float, float]]:
    rows = parameter_rows(
        trained, lr_decay_rate=optim.layerwise_decay, patch_embed_lr_mult=1.0, dino_head_wd_multiplier=1.0
    )
    for row in rows:
        segments = row.name.split(".")
        own: float | None
        if "lora" in segments:
            own = optim.lora_lr
        elif "head" in segments:
            own = None
        else:
            own = optim.backbone_lr if model.method == "fullft" else optim.norms_bias_lr
        token = bool(EMBEDDINGS & set(segments)) and "patch_embed" not in segments
        wd = 0.0 if token or row.param.ndim < 2 else row.wd_multiplier
        yield row.name, row.param, row.lr_multiplier * (own or optim.lr) / optim.lr, wd


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean over ``logits [N, C]`` in float32, whatever they were computed in."""
    return F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)


def dihedral(images: Tensor) -> Sequence[Tensor]:
    """The eight turns and mirror images of squares ``[N, C, S, S]``, the images themselves first."""
    turned = [torch.rot90(images, turn, (-2, -1)) for turn in range(4)]
    return [*turned, *(one.flip(-1) for one in turned)]
