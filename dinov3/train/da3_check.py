"""``dinov3 da3-check``: does the Depth Anything 3 teacher line up with the student, before days of training depend on it?"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dinov3.config.errors import ConfigError
from dinov3.config.load import load_config
from dinov3.config.recipes import config_file
from dinov3.config.schema import Config
from dinov3.contracts import CropBatch, LossTerm, StepContext, StudentView
from dinov3.data.loader import CropLoader
from dinov3.distributed.context import setup
from dinov3.engine import precision
from dinov3.engine.model_randomness import seed_model_randomness
from dinov3.objectives.da3 import Da3
from dinov3.pictures.pca import token_colours
from dinov3.pictures.token_sheet import covered, token_sheet, unnormalised
from dinov3.runs.output import check_output_file
from dinov3.system.errors import EXIT_DONE, EXIT_NON_FINITE, Foreseeable
from dinov3.system.paths import expanded
from dinov3.teachers.da3 import Da3Teacher
from dinov3.train.dataset import checked_source
from dinov3.train.ssl_meta_arch import SSLMetaArch

ROWS = 6  # of the picture


class NotFinite(Foreseeable):
    """The batch gave a loss or gradient that is nan or inf."""

    code = EXIT_NON_FINITE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dinov3 da3-check``."""
    parser.add_argument("--config-file", type=config_file, help="YAML with da3.enabled: true")
    parser.add_argument("--out", type=expanded, help="PNG to write: crops, masks, the tokens of both as colours")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides, e.g. da3.ckpt_path=/weights/DA3-BASE")


def execute(args: argparse.Namespace) -> int:
    """Run the command: 0 when everything is finite. Raises NotFinite (70) when not, ConfigError when nothing fits."""
    cfg = load_config(args.config_file, args.opts)
    source = str(args.config_file or "command line")
    if not cfg.da3.enabled:
        raise ConfigError(source, "da3.enabled", "false: set it to true, there is nothing to check")
    if args.out is not None:
        check_output_file(args.out, "--out")
    try:
        report = check(cfg)
    except ValueError as error:  # teacher and student do not fit together
        raise ConfigError(source, "", str(error)) from error
    print("\n".join(report.lines(cfg)))
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        report.draw(cfg, args.out)
        print(f"picture   {args.out}")
    if not report.finite:
        raise NotFinite("the loss or a gradient is not finite")
    return EXIT_DONE


@dataclass(frozen=True)
class Report:
    """One batch, what both models made of it, and the gradients of the DA3 term alone."""

    batch: CropBatch
    student: StudentView
    teacher_tokens: Tensor  # [G*B, P, D'] on the student's grid
    own_grid: tuple[int, int]  # the teacher's, before any interpolation
    term: LossTerm
    gradient_norms: dict[str, float]
    teacher_gradients: int  # tensors of the teacher that have one

    @property
    def finite(self) -> bool:
        values = [self.term.value, *self.term.metrics.values(), *self.gradient_norms.values()]
        return all(math.isfinite(float(v)) for v in values)

    def lines(self, cfg: Config) -> list[str]:
        """What to print."""
        clean, metrics = self.batch.collated_global_crops_clean, self.term.metrics
        assert clean is not None  # the loader makes them when da3.enabled
        weights = "random weights" if cfg.da3.random_init else cfg.da3.ckpt_path
        norms = self.teacher_tokens.norm(dim=-1)  # [G*B, P]
        grads = ", ".join(f"{name} {norm:.3g}" for name, norm in self.gradient_norms.items())
        return [
            f"teacher   da3-{cfg.da3.variant}, target {cfg.da3.target}, {weights}",
            f"          clean crops {shape(clean)} -> grid {grid_text(self.own_grid)}, {cfg.da3.grid_mode} -> "
            f"tokens {shape(self.teacher_tokens)}",
            f"student   {cfg.student.arch}, patch {cfg.student.patch_size}",
            f"          global crops {shape(self.batch.collated_global_crops)} -> grid {grid_text(self.student.grid)}, "
            f"patches {shape(self.student.patches)}",
            f"masked    {len(self.batch.mask_indices_list)} of {self.batch.collated_masks.numel()} patches; "
            f"the term looks at: {cfg.da3.loss_on}",
            f"tokens    norm of the teacher's: mean {norms.mean():.3f}, std {norms.std():.3f}, "
            f"{norms.min():.3f} to {norms.max():.3f}",
            f"cosine    before training: mean {metrics['da3_cos_mean']:.4f}, std {metrics['da3_cos_std']:.4f}",
            f"loss      {self.term.value:.4f}, weight {cfg.da3.loss_weight:g}",
            f"gradients {grads}, teacher {self.teacher_gradients or 'none'}",
        ]

    def draw(self, cfg: Config, path: Path) -> None:
        """The picture: the first masked crop of each of the first images."""
        grid, images, mean, std = self.student.grid, self.batch.batch_size, cfg.crops.rgb_mean, cfg.crops.rgb_std
        masks = self.batch.collated_masks.unflatten(1, grid)  # [G*B, rows, cols]
        hidden = masks.flatten(1).sum(1).unflatten(0, (-1, images))  # [G, B]
        chosen = (hidden.argmax(0) * images + torch.arange(images, device=hidden.device))[:ROWS]  # [n]
        assert self.batch.collated_global_crops_clean is not None
        seen = unnormalised(self.batch.collated_global_crops[chosen], mean, std)
        size = self.batch.collated_global_crops_clean.shape[-1]
        columns = {
            f"clean crop, {size} px": unnormalised(self.batch.collated_global_crops_clean[chosen], mean, std),
            f"DA3 tokens, {grid_text(self.own_grid)}": token_colours(self.teacher_tokens[chosen], grid),
            f"student's crop, {seen.shape[-1]} px, masked": covered(seen, masks[chosen]),
            f"student's tokens, {grid_text(grid)}": token_colours(self.student.patches.detach()[chosen], grid),
        }
        rows = [f"image {n % images}, crop {n // images}" for n in chosen.tolist()]
        weights = "random weights" if cfg.da3.random_init else Path(cfg.da3.ckpt_path).name
        title = (
            f"da3-{cfg.da3.variant} ({weights}) teaches {cfg.student.arch}/{cfg.student.patch_size}, before training"
        )
        token_sheet(columns, rows, title, path)


def check(cfg: Config) -> Report:
    """Build the model, send one batch through it, and go backwards through the DA3 term alone."""
    cfg.compute_precision.unread_tokens = "compute"  # the picture shows every token
    device = setup(cfg.train.device)
    source = checked_source(cfg, 1)
    model = SSLMetaArch(cfg, device, precision.resolve_block(cfg.compute_precision, device))
    model.init_weights(torch.Generator(device).manual_seed(cfg.train.seed))
    teacher = model.da3_teacher  # execute() has seen da3.enabled
    with CropLoader(cfg, source, position=0, rank=0, world_size=1, device=device, dtype=torch.float32) as loader:
        batch = next(loader)
    return look(model, teacher, batch)


def look(model: SSLMetaArch, teacher: Da3Teacher, batch: CropBatch) -> Report:
    """The DA3 term of one batch and its gradients."""
    assert batch.collated_global_crops_clean is not None
    seed_model_randomness(model.cfg.train.seed, 0, 0)
    objective = next(o for o in model.objectives if isinstance(o, Da3))
    with model.precision.autocast():
        student_global, student_local = model.get_student_output(batch)
        tokens = teacher.tokens(batch.collated_global_crops_clean, student_global.grid)  # [G*B, P, D']
        targets = model.get_da3_teacher_output(
            batch.collated_global_crops_clean, batch.mask_indices_list, student_global.grid
        )
        term = objective(StepContext(0, batch, student_global, student_local, model.student, {"da3": targets}))
    term.value.backward()
    return Report(
        batch=batch,
        student=student_global,
        teacher_tokens=tokens,
        own_grid=teacher.own_grid(batch.collated_global_crops_clean),
        term=LossTerm(term.value.detach(), term.metrics),
        gradient_norms={name: gradient_norm(model.student[name]) for name in ("da3_projector", "backbone")},
        teacher_gradients=sum(p.grad is not None for p in teacher.encoder.parameters()),
    )


def gradient_norm(module: nn.Module) -> float:
    """L2 norm over all gradients of ``module``."""
    return float(torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None]))


def shape(x: Tensor) -> str:
    return f"[{', '.join(map(str, x.shape))}]"


def grid_text(grid: tuple[int, int]) -> str:
    return f"{grid[0]} x {grid[1]}"
