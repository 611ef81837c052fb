"""What a diffusion transformer learns: the velocity from image to noise, with conditions dropped at random."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3.config.dit import DitConfig
from dinov3.engine.module_task import ModuleTask
from dinov3.engine.optim import ParamGroup, clean_name, ema_update
from dinov3.engine.precision import Precision
from dinov3.generate.conditions import CATEGORIES, ConditionShares, categories_of, dropped
from dinov3.generate.times import flow_losses, noised, shift_of, shifted, times_of
from dinov3.generate.training.batch import DitBatch
from dinov3.generate.training.model_file import FILE, MODEL, STATISTICS, write_dit
from dinov3.generate.training.statistics import Normaliser
from dinov3.models.diffusion.transformer import PATCH, Alignment, Conditions, DiffusionTransformer

DIT, REPA, EMA = "dit", "repa", "ema"


class DitTask(ModuleTask[DitBatch]):
    """Trains ``dit`` (and with ``repa.weight`` a projection); keeps its moving average, whose weights samples are made with."""

    def __init__(
        self,
        cfg: DitConfig,
        dit: DiffusionTransformer,
        normaliser: Normaliser,
        precision: Precision,
        facts: Mapping[str, Any],
        alignment: Alignment | None = None,
    ) -> None:
        """``facts``: what ``dit.safetensors`` says of the set it was trained on."""
        modules: dict[str, nn.Module] = {DIT: dit} | ({} if alignment is None else {REPA: alignment})
        super().__init__(nn.ModuleDict(modules), precision.device, seed=cfg.train.seed)
        self.cfg, self.dit, self.precision, self._facts = cfg, dit, precision, dict(facts)
        self.ema = copy.deepcopy(dit).requires_grad_(False).eval()
        self.normaliser = normaliser.to(precision.device)
        self.shares = ConditionShares.of(asdict(cfg.conditions))
        self.report: dict[str, Any] = {}  # of the warm start

    def groups(self) -> list[ParamGroup]:
        """Weight decay for matrices; none for biases and for the tokens that stand for what is dropped."""
        decayed, free = ParamGroup(1.0, 1.0, False), ParamGroup(1.0, 0.0, False)
        for name, parameter in self.trained.named_parameters():
            plain = clean_name(name)
            group = free if parameter.ndim < 2 or ".null_" in plain else decayed
            group.names.append(plain)
            group.params.append(parameter)
        return [group for group in (decayed, free) if group.params]

    def loss(self, batch: DitBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        images = self.normaliser("latents", batch.latents)
        times = shifted(times_of(batch.times), shift_of(images.shape[1:], self.cfg.flow.shift_base))
        categories = categories_of(batch.categories, self.shares.in_order())
        known = self.known(batch, *dropped(categories))
        with self.precision.autocast():
            velocity, tokens = self.dit.with_hidden(
                noised(images, batch.noise, times), times, known, self.cfg.repa.block if self.cfg.repa.weight else 0
            )
            aligned = self._aligned(tokens, known, images.shape) if self.cfg.repa.weight else None
        velocity = velocity.float()
        losses = flow_losses(velocity, images, batch.noise)
        total = losses.mean()
        shares = F.one_hot(categories, len(CATEGORIES)).float().mean(0)
        terms = {"flow_loss": total, "velocity_rms": velocity.square().mean().sqrt()}
        terms |= {f"share_{name}": share for name, share in zip(CATEGORIES, shares, strict=True)}
        if aligned is not None:
            total = total + self.cfg.repa.weight * aligned
            terms["repa_loss"] = aligned
        return total, terms

    def known(self, batch: DitBatch, without_text: Tensor, without_features: Tensor) -> Conditions:
        """The conditions of a batch, normalised; ``[B]`` each: which rows drop what."""
        return Conditions(
            text=batch.text.float(),
            text_mask=batch.text_mask,
            cls=self.normaliser("cls", batch.cls),
            patches=self.normaliser("patches", batch.patches),
            grid=batch.grid,
            without_text=without_text,
            without_features=without_features,
        )

    def _aligned(self, tokens: Tensor, known: Conditions, shape: torch.Size) -> Tensor:
        """1 - cosine, a mean over all places of the coarser of both grids."""
        rows, cols = shape[2] // PATCH, shape[3] // PATCH
        maps = self.trained[REPA](tokens).float().mT.unflatten(2, (rows, cols))
        pooled = F.adaptive_avg_pool2d(maps, known.grid).flatten(2).mT
        return 1 - F.cosine_similarity(pooled, known.patches, dim=-1).mean()

    def finish_backward(self) -> None:
        # the optimizer and the sum over processes want the same gradients in every step, whatever was dropped
        for parameter in self.trained.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        super().finish_backward()

    def after_step(self, step: int, now: Any) -> None:
        # at first the average of few steps: otherwise short runs would be judged by their random start
        momentum = min(self.cfg.ema.momentum, (1 + step) / (10 + step))
        ema_update(self.ema.parameters(), self.dit.parameters(), momentum)

    def state(self) -> dict[str, Tensor]:
        averaged = {f"{EMA}.{name}": tensor for name, tensor in self.ema.state_dict().items()}
        statistics = {f"{STATISTICS}{name}": tensor for name, tensor in self.normaliser.state_dict().items()}
        return {**super().state(), **averaged, **statistics}

    def facts(self) -> dict[str, Any]:
        return {"warm_start": self.report}

    def products(self, *, copy: bool) -> Callable[[Path], None]:
        tensors = {f"{MODEL}{name}": tensor for name, tensor in self.ema.state_dict().items()}
        tensors |= {f"{STATISTICS}{name}": tensor for name, tensor in self.normaliser.state_dict().items()}
        if copy:
            tensors = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        return lambda folder: write_dit(folder / FILE, tensors, self.dit.spec, self._facts)


def first_visual_bias(keys: int) -> float:
    """With it ``keys`` features together weigh about as much as one word, so that a model of text alone is hardly disturbed."""
    return -math.log(1 + keys)
