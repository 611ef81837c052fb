"""A training step on synthetic crops: the only place where a benchmark touches the trainer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.measure import Parts
from dinov3.config.load import load_config
from dinov3.config.schema import Config
from dinov3.contracts import CropBatch
from dinov3.data.loader import CropLoader
from dinov3.data.sources import open_dataset
from dinov3.engine.optim import build_optimizer
from dinov3.engine.precision import resolve
from dinov3.engine.schedules import build_schedules
from dinov3.engine.step import train_step
from dinov3.runs.state import allocate_optimizer_state, training_tensors
from dinov3.train.ssl_meta_arch import SSLMetaArch
from dinov3.train.task import Pretraining

CLIP = 3.0  # optim.clip_grad of the reference recipe
N_BATCHES = 3  # taken in turns, each with another number of masked patches: as in training, no step is like the last


@dataclass(frozen=True)
class Recipe:
    """What is trained. The defaults are those of the official figures on a GPU."""

    arch: str = "vit_base"
    batch: int = 128
    patch: int = 16
    global_size: int = 256
    local_size: int = 112
    locals: int = 8
    prototypes: int = 65536
    drop_path: float = 0.1
    dtype: str = "bf16"
    compile: bool = True
    more: dict[str, Any] = field(default_factory=dict)  # other keys of the config

    def config(self) -> Config:
        keys = {
            "student.arch": self.arch,
            "student.patch_size": self.patch,
            "student.drop_path_rate": self.drop_path,
            "student.n_storage_tokens": 4,
            "student.norm_layer": "layernormbf16",
            "student.mask_k_bias": True,
            "dino.head_n_prototypes": self.prototypes,
            "ibot.head_n_prototypes": self.prototypes,
            "crops.global_crops_size": self.global_size,
            "crops.local_crops_size": self.local_size,
            "crops.local_crops_number": self.locals,
            "train.batch_size_per_gpu": self.batch,
            "train.compile": self.compile,
            "compute_precision.param_dtype": self.dtype,
            **self.more,
        }
        return load_config(None, [f"{k}={v}" for k, v in keys.items()])


def synthetic_batches(recipe: Recipe, device: torch.device, count: int = N_BATCHES) -> list[CropBatch]:
    """Noise crops; half of the global crops are masked, 10 to 50 % of their patches, as in the default recipe.

    All batches have the same crops; batch ``i`` has ``i`` masked patches fewer than the first.
    """

    def noise(n: int, size: int) -> torch.Tensor:
        # drawn where it is used: on a CPU a batch of 256 takes seconds
        generator = torch.Generator(device).manual_seed(0)
        return torch.randn(n, 3, size, size, generator=generator, device=device)

    global_crops = noise(2 * recipe.batch, recipe.global_size)
    local_crops = noise(recipe.locals * recipe.batch, recipe.local_size)
    batches = []
    for number in range(count):
        masks = synthetic_masks(recipe, fewer=number)
        indices = masks.flatten().nonzero().flatten()
        batch = CropBatch(
            collated_global_crops=global_crops,
            collated_local_crops=local_crops,
            collated_masks=masks,
            mask_indices_list=indices,
            masks_weight=(1 / masks.sum(-1).clamp(min=1))[:, None].expand_as(masks)[masks],
            n_masked_patches=torch.tensor([len(indices)]),
            upperbound=len(indices),
            global_batch_size=recipe.batch,
        )
        batches.append(batch.to(device))
    return batches


def synthetic_masks(recipe: Recipe, *, fewer: int) -> torch.Tensor:
    """``[2 * batch, P]`` bool; the most masked crop has ``fewer`` masked patches less."""
    g, n_images, n_patches = (
        torch.Generator().manual_seed(0),
        2 * recipe.batch,
        (recipe.global_size // recipe.patch) ** 2,
    )
    masks = torch.zeros(n_images, n_patches, dtype=torch.bool)
    ratios = torch.linspace(0.1, 0.5, recipe.batch + 1)[1:].tolist()
    for i, ratio in enumerate(ratios):
        hidden = int(n_patches * ratio) - (fewer if i == len(ratios) - 1 else 0)
        masks[i, torch.randperm(n_patches, generator=g)[: max(hidden, 1)]] = True
    return masks


class SyntheticStep:
    """A model with its optimizer; calling it with a number runs that step."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        cfg = recipe.config()
        self.precision = resolve(recipe.dtype, device, cpu_dtype=recipe.dtype)
        self.model = SSLMetaArch(cfg, device, self.precision)
        self.model.init_weights(torch.Generator(device).manual_seed(0))
        self.prepared = self.model.prepare_for_distributed_training()
        self.optimizer = build_optimizer(self.model.get_params_groups(), cfg.optim)
        allocate_optimizer_state(self.optimizer)
        self.schedules = build_schedules(cfg, world_size=1)
        self.batches = synthetic_batches(recipe, device)

    def __call__(self, number: int) -> object:
        return self.on(self.batches[number % N_BATCHES], number)

    def on(self, batch: CropBatch, number: int) -> object:
        """Step ``number`` on a given batch."""
        now = self.schedules.at(number + 1)
        return train_step(Pretraining(self.model), self.optimizer, now, batch, step=number, clip_grad=CLIP)

    def optimizer_step(self) -> None:
        self.optimizer.step()

    def ema_step(self) -> None:
        self.model.update_ema(0.99)

    def backbone(self) -> torch.nn.Module:
        """The student's."""
        backbone: torch.nn.Module = self.model.student["backbone"]
        return backbone

    def state(self) -> dict[str, torch.Tensor]:
        """Everything a checkpoint holds, live."""
        return training_tensors(self.model, self.model.checkpoint_state(), self.optimizer)

    def wrapped(self) -> Parts:
        """The parts of a step measured from here on; ``shares`` reads them."""
        parts = Parts(self.device)
        parts.wrap(self.model, "get_teacher_output", "teacher")
        parts.wrap(self.model, "get_student_output", "student forward")
        parts.wrap(self.model, "compute_losses", "losses forward")
        parts.wrap(self.model, "forward_backward", "forward and backward")
        parts.wrap(self.optimizer, "step", "optimizer")
        parts.wrap(self.model, "update_ema", "ema")
        return parts


def shares(parts: Parts, steps: int, seconds_per_step: float) -> dict[str, float]:
    """Share of a step that each part takes; what is left over is the clipping, the wait and the host."""
    per_step = {name: spent / steps for name, spent in parts.seconds.items()}
    inner = per_step["teacher"] + per_step["student forward"] + per_step["losses forward"]
    per_step["backward"] = per_step.pop("forward and backward") - inner
    return {name: round(spent / seconds_per_step, 3) for name, spent in per_step.items()}


def crop_loader(recipe: Recipe, dataset: str, device: torch.device, *, workers: int, dtype: torch.dtype) -> CropLoader:
    """The stream of training batches from ``dataset`` (``ImageFolder:root=...``), from its first sample on."""
    more = recipe.more | {"train.num_workers": workers, "train.dataset_path": dataset}
    cfg = Recipe(**{**vars(recipe), "more": more}).config()
    source = open_dataset(dataset)
    return CropLoader(cfg, source, position=0, rank=0, world_size=1, device=device, dtype=dtype)
