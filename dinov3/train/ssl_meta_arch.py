"""Student, EMA teacher, frozen teachers and objectives, put together into one training step."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from dinov3.config.derived import largest_global_crop
from dinov3.config.schema import Config
from dinov3.contracts import CropBatch, Features, StepContext, StudentView
from dinov3.distributed import parallel
from dinov3.distributed.peers import ALONE, Peers
from dinov3.distributed.shard import gather
from dinov3.engine.optim import ParamGroup, ema_update, parameter_groups
from dinov3.engine.precision import Precision
from dinov3.models.backbone import Backbone
from dinov3.models.build import build_backbone
from dinov3.models.lora import merged_parameters
from dinov3.models.token_grid import resample_tokens
from dinov3.objectives.base import Objective
from dinov3.objectives.dino import Dino
from dinov3.objectives.ibot import Ibot
from dinov3.teachers.frozen import frozen_features, shrunk
from dinov3.teachers.gram import GramTeacher, Grid, resized_patches
from dinov3.teachers.shared import divide, shared_logits
from dinov3.train.parallelize import choose_parallel, parallelize
from dinov3.train.parts import (
    build_da3_teacher,
    build_distillation_teacher,
    build_feature_teacher,
    build_objectives,
)
from dinov3.weights.own import load_model, without_aliases
from dinov3.weights.pretrained import LoadReport, load_start

N_GLOBAL_CROPS = 2


class SSLMetaArch(nn.Module):
    """The trainable whole. ``student`` learns; ``model_ema`` follows it and teaches.

    State-dict names are DINOv3's: ``student.*``, ``model_ema.*``, ``dino_loss.center``, ``ibot_patch_loss.center``.
    Built with storage but without values: call ``init_weights`` before use.
    """

    dino_loss: Dino  # objectives are registered under the names DINOv3's checkpoints have
    ibot_patch_loss: Ibot
    gram_teacher: nn.ModuleDict  # exists only with a Gram teacher of its own
    anchor_teacher: nn.ModuleDict  # exists only with a feature anchor: the backbone as it was before step 0
    heads_missing = False  # the weights training starts from have none: those here are fresh
    pretrained: LoadReport | None = None  # the weights training began with; None: random ones
    teacher: nn.ModuleDict  # whose outputs are the targets: the EMA, or a frozen model that is distilled

    def __init__(
        self,
        cfg: Config,
        device: torch.device | str = "cpu",
        precision: Precision | None = None,
        peers: Peers = ALONE,
    ) -> None:
        super().__init__()
        self.cfg, self.peers = cfg, peers
        self.precision = precision or Precision(torch.float32, torch.device(device), "default")
        self.da3_teacher = build_da3_teacher(cfg, torch.device(device))
        self.feature_teacher = build_feature_teacher(cfg, torch.device(device))
        self.gram = GramTeacher(cfg.gram)
        self.heads_alone = False  # in this step: head warm-up
        with torch.device("meta"):
            self.student = nn.ModuleDict({"backbone": self._backbone(drop_path=True)})
            self.model_ema = nn.ModuleDict({"backbone": self._backbone(drop_path=False)})
            self.embed_dim = cast(Backbone, self.student["backbone"]).embed_dim
            if cfg.gram.use_loss and not cfg.gram.ema_teacher:
                self.gram_teacher = nn.ModuleDict({"backbone": self._backbone(drop_path=False)})
            if cfg.feature_anchor.enabled:
                self.anchor_teacher = nn.ModuleDict({"backbone": self._backbone(drop_path=False)})
            self.objectives = build_objectives(cfg, self.embed_dim, self.da3_teacher, self.feature_teacher)
            for objective in self.objectives:
                self.student.update(objective.student_modules())
                self.model_ema.update(objective.ema_modules())
                self.add_module(objective.state_name, objective)
            if cfg.distillation.enabled:
                self.teacher = build_distillation_teacher(cfg)
        if not cfg.distillation.enabled:
            # another name of the EMA, not another submodule: the state dict has it once
            object.__setattr__(self, "teacher", self.model_ema)
        self.parallel = parallel.ALONE
        self.to_empty(device=device)
        self._fill_with_nan()
        for frozen in self._frozen():
            frozen.requires_grad_(False)
        self.train()

    def _backbone(self, *, drop_path: bool) -> nn.Module:
        return build_backbone(self.cfg.student, img_size=largest_global_crop(self.cfg), drop_path=drop_path)

    @torch.no_grad()
    def _fill_with_nan(self) -> None:
        """A tensor that init_weights forgets shows at once."""
        for tensor in [*self.parameters(), *self.buffers()]:
            if tensor.is_floating_point():
                tensor.fill_(float("nan"))

    def train(self, mode: bool = True) -> SSLMetaArch:
        """Training mode for the student; teachers stay in eval mode whatever ``mode`` is."""
        super().train(mode)
        for frozen in self._frozen():
            frozen.eval()
        return self

    def _frozen(self) -> list[nn.ModuleDict]:
        """Models inside the module tree that learn nothing by gradient."""
        own = [getattr(self, name) for name in ("gram_teacher", "anchor_teacher") if hasattr(self, name)]
        return [self.model_ema, *([self.teacher] if self.cfg.distillation.enabled else []), *own]

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Random student (drawn from ``generator``), teacher equal to it, buffers at their start values."""
        for name, module in self.student.items():
            cast(Any, module).init_weights(generator)
            if name in self.model_ema:
                self.model_ema[name].load_state_dict(module.state_dict())
        if self.cfg.distillation.enabled:
            for module in self.teacher.values():
                cast(Any, module).init_weights(generator)
        self.copy_start_to_teachers()
        for objective in self.objectives:
            objective.init_weights()

    def copy_start_to_teachers(self) -> None:
        """The EMA, as it is before step 0, into the teachers that begin as its copy."""
        if hasattr(self, "gram_teacher"):
            self._copy_ema_to_gram_teacher()
        if hasattr(self, "anchor_teacher"):
            self.anchor_teacher["backbone"].load_state_dict(self.model_ema["backbone"].state_dict())

    @torch.no_grad()
    def load_pretrained(self) -> list[str]:
        """Fill the student from ``student.pretrained_weights``, and with it every model that starts as its copy.

        Before sharding and before ``load_teachers``. Returns what was loaded, to be printed.
        """
        report = load_start(self.student, self.cfg.student)
        self.remember_start(report)
        if report is None:
            return []
        for name, module in self.model_ema.items():
            module.load_state_dict(self.student[name].state_dict())
        self.copy_start_to_teachers()
        return report.lines()

    def remember_start(self, report: LoadReport | None) -> list[str]:
        """What a run began with, which a resumed one does not read again."""
        self.pretrained = report
        self.heads_missing = report is not None and not report.has_heads
        return [] if report is None else [f"start      {report.path} was read at step 0"]

    def load_teachers(self) -> list[str]:
        """Fill the teachers that come from files, strictly; returns what was loaded, to be printed."""
        done = []
        if self.cfg.distillation.enabled:
            done.append(load_model(self.teacher, Path(self.cfg.distillation.checkpoint_path)))
        if hasattr(self, "gram_teacher") and self.cfg.gram.ckpt:
            done.append(load_model(self.gram_teacher, Path(self.cfg.gram.ckpt)))
        return done

    def checkpoint_state(self) -> dict[str, Tensor]:
        """The state dict, one name a tensor, without what a restart reads from its own file: a distillation's teacher."""
        own_file = "teacher." if self.cfg.distillation.enabled else None
        state = {k: v.detach() for k, v in without_aliases(self).items()}
        return {k: v for k, v in state.items() if own_file is None or not k.startswith(own_file)}

    # ------------------------------------------------------------------ one step

    def forward_backward(
        self, batch: CropBatch, *, teacher_temp: float, iteration: int, share: float = 1.0
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Losses and gradients of one batch; gradients are multiplied by ``share`` and added to those there.

        Returns the weighted total (scalar, detached) and every loss term, unweighted, under its DINOv3 name.
        """
        with self.precision.autocast():
            ema = self.get_teacher_output(
                batch.collated_global_crops, teacher_temp=teacher_temp, mask_indices_list=batch.mask_indices_list
            )
            student_global, student_local = self.get_student_output(batch)
            teachers = {"ema": ema, **self.get_other_teachers(batch, ema, student_global.grid, iteration)}
            context = StepContext(iteration, batch, student_global, student_local, self.student, teachers)
            total, terms = self.compute_losses(context)
        (total * share).backward()
        sizes = {"local_batch_size": float(batch.batch_size), "global_batch_size": float(batch.global_batch_size)}
        return total.detach(), {**sizes, **terms}

    def get_other_teachers(
        self, batch: CropBatch, ema: dict[str, Any], grid: Grid, iteration: int
    ) -> dict[str, dict[str, Tensor]]:
        """What every teacher but the EMA's says about a batch, on the student's grid, by name; those that are on."""
        teachers = {}
        if self.cfg.gram.use_loss and self.gram.ready(iteration):
            teachers["gram"] = self.get_gram_teacher_output(batch, ema, grid)
        if self.da3_teacher is not None:
            clean = batch.collated_global_crops_clean
            teachers["da3"] = self.get_da3_teacher_output(clean, batch.mask_indices_list, grid)
        crops = batch.collated_global_crops
        if self.cfg.feature_anchor.enabled:
            teachers["feature_anchor"] = frozen_features(self.anchor_teacher["backbone"], crops, grid)
        if self.feature_teacher is not None:
            teachers["feature_distillation"] = self.feature_teacher.features(crops, grid)
        return teachers

    @torch.no_grad()
    def get_teacher_output(self, images: Tensor, *, teacher_temp: float, mask_indices_list: Tensor) -> dict[str, Any]:
        """Targets from the unmasked global crops ``[G*B, C, H, W]``.

        Returns ``cls_pre_head [G, B, D]``, ``cls_centered`` (Targets ``[G, B, K]``), ``masked_patch_centered``
        (Targets ``[M, K]``) and ``patches [G*B, P, D]``.
        """
        out = self.get_teacher_logits(images, mask_indices_list)
        out["cls_centered"] = self.dino_loss.targets(out.pop("cls_logits"), teacher_temp)
        out["masked_patch_centered"] = self.ibot_patch_loss.targets(out.pop("masked_logits"), teacher_temp)
        return out

    @torch.no_grad()
    def get_teacher_logits(self, images: Tensor, mask_indices_list: Tensor) -> dict[str, Any]:
        """``get_teacher_output`` before centering: ``cls_logits [G, B, K]`` and ``masked_logits [M, K]`` in place of targets.

        A pass that several students share has no ``patches``.
        """
        grid = cast(Backbone, self.student["backbone"]).grid_of(images)
        images = shrunk(images, self.cfg.crops.teacher_to_student_resolution_scale)
        if self.peers.several:
            division = divide(self.peers.ranks, self.peers.number, len(images) // N_GLOBAL_CROPS)
            return shared_logits(self.teacher, images, mask_indices_list, division, self.peers.gather, grid)
        features: Features = self.teacher["backbone"](images, is_training=True)
        patches = resample_tokens(features.patches, features.grid, grid)
        cls = features.cls.unflatten(0, (N_GLOBAL_CROPS, -1))  # [G, B, D]
        cls_logits = self.teacher["dino_head"](features.cls).unflatten(0, (N_GLOBAL_CROPS, -1))  # [G, B, K]
        masked = patches.flatten(0, 1).index_select(0, mask_indices_list)  # [M, D]
        masked_logits = self.teacher["ibot_head"](masked)  # [M, K]
        return {
            "cls_pre_head": cls,
            "cls_logits": cls_logits,
            "masked_logits": masked_logits,
            "patches": patches,
            "grid": grid,
        }

    @torch.no_grad()
    def get_gram_teacher_output(self, batch: CropBatch, ema: dict[str, Any], grid: Grid) -> dict[str, Tensor]:
        """``patches [G*B, P, D]`` of the Gram teacher on the student's grid.

        From the Gram crops when the batch has them, else from the global crops; with ``gram.ema_teacher`` and no Gram
        crops they are what the EMA teacher has just computed.
        """
        crops = batch.collated_gram_teacher_crops
        if self.cfg.gram.ema_teacher and crops is None:
            return {"patches": resized_patches(ema["patches"], ema["grid"], grid, self.cfg.gram)}
        model = self.model_ema if self.cfg.gram.ema_teacher else self.gram_teacher
        views = batch.collated_global_crops if crops is None else crops
        return {"patches": self.gram.patches(model["backbone"], views, grid)}

    @torch.no_grad()
    def get_da3_teacher_output(
        self, clean_global_crops: Tensor | None, mask_indices_list: Tensor, grid: Grid
    ) -> dict[str, Tensor]:
        """DA3 ``tokens [M, D']`` at the masked positions, or of every patch with ``da3.loss_on: all``.

        ``clean_global_crops [G*B, 3, H, W]``; ``mask_indices_list [M]`` indexes their flattened student grid.
        """
        assert self.da3_teacher is not None
        assert clean_global_crops is not None  # the loader makes them when da3.enabled
        tokens = self.da3_teacher.tokens(clean_global_crops, grid).flatten(0, 1)  # [G*B*P, D']
        return {"tokens": tokens if self.cfg.da3.loss_on == "all" else tokens.index_select(0, mask_indices_list)}

    def get_student_features(self, batch: CropBatch) -> list[Features]:
        """The student's backbone on the masked global crops and, when there are any, the local crops, in one pass."""
        crops = [batch.collated_global_crops, batch.collated_local_crops]
        # a distilled student sees whole images, as its frozen teacher does
        masks = [None if self.cfg.distillation.enabled else batch.collated_masks, None]
        if crops[1].shape[0] == 0:
            crops, masks = crops[:1], masks[:1]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.heads_alone):
            features: list[Features] = self.student["backbone"](crops, masks, is_training=True)
        return features

    def get_student_output(self, batch: CropBatch) -> tuple[StudentView, StudentView]:
        """What the student makes of the masked global crops and of the local crops."""
        features = self.get_student_features(batch)
        logits = self.student["dino_head"](torch.cat([f.cls for f in features]))  # [(G+L)*B, K]
        n_global = batch.collated_global_crops.shape[0]
        masked = features[0].patches.flatten(0, 1).index_select(0, batch.mask_indices_list)  # [M, D]
        b = batch.batch_size
        student_global = StudentView(
            cls_pre_head=features[0].cls.unflatten(0, (-1, b)),
            cls_after_head=logits[:n_global].unflatten(0, (-1, b)),
            patches=features[0].patches,
            grid=features[0].grid,
            masked_patch_pre_head=masked,
            masked_patch_after_head=self.student["ibot_head"](masked),
        )
        local_cls = features[-1].cls if len(features) == 2 else features[0].cls[:0]
        student_local = StudentView(
            cls_pre_head=local_cls.reshape(-1, b, local_cls.shape[-1]),
            cls_after_head=logits[n_global:].reshape(-1, b, logits.shape[-1]),
            patches=features[-1].patches,
            grid=features[-1].grid,
        )
        return student_global, student_local

    def compute_losses(
        self, context: StepContext, objectives: Iterable[Objective] | None = None
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Weighted sum of the objectives (all when None), and their unweighted values to log."""
        total = torch.zeros((), device=context.batch.collated_global_crops.device)
        logged: dict[str, Tensor | float] = {}
        for objective in self.objectives if objectives is None else objectives:
            term = objective(context)
            total = total + objective.weight_at(context.iteration) * term.value
            logged |= term.metrics
        return total, logged

    # ------------------------------------------------------------------ after the step

    @property
    def head_warmup_steps(self) -> int:
        """Steps at the start in which only heads train."""
        settings = self.cfg.head_warmup
        wanted = settings.when == "always" or (settings.when == "heads_missing" and self.heads_missing)
        return settings.steps if wanted else 0

    @torch.no_grad()
    def update_ema(self, momentum: float) -> None:
        """teacher = momentum * teacher + (1 - momentum) * student, parameters only; LoRA counts as merged.

        A backbone that stands still in a head warm-up has an EMA that stands still.
        """
        student = merged_parameters(self.student)
        ema = [
            (n, p) for n, p in self.model_ema.named_parameters() if not (self.heads_alone and n.startswith("backbone."))
        ]
        ema_update([p for _, p in ema], [student[n] for n, _ in ema], momentum)

    def _copy_ema_to_gram_teacher(self) -> None:
        self.gram_teacher["backbone"].load_state_dict(self.model_ema["backbone"].state_dict())

    def before_step(self, iteration: int) -> None:
        """Teachers that change at a given step, objectives that collect something over its batches, head warm-up."""
        self.heads_alone = iteration < self.head_warmup_steps
        if hasattr(self, "gram_teacher") and self.gram.loads_ema_before(iteration):
            self._copy_ema_to_gram_teacher()
        for objective in self.objectives:
            objective.before_step()

    def update_gram(self, iteration: int) -> None:
        """Copy the EMA teacher into the Gram teacher when it is due after this step."""
        if hasattr(self, "gram_teacher") and self.gram.updates_after(iteration):
            self._copy_ema_to_gram_teacher()

    @torch.no_grad()
    def after_step(self, iteration: int, momentum: float) -> None:
        """Everything that follows the student when a step was taken."""
        self.update_ema(momentum)
        self.update_gram(iteration)
        for objective in self.objectives:
            objective.after_step()

    def get_params_groups(self) -> list[ParamGroup]:
        """Parameters with their learning-rate and weight-decay multipliers, submodule by submodule."""
        optim = self.cfg.optim
        groups: list[ParamGroup] = []
        for module in self.student.values():
            groups += parameter_groups(
                module,
                lr_decay_rate=optim.layerwise_decay,
                patch_embed_lr_mult=optim.patch_embed_lr_mult,
                dino_head_wd_multiplier=optim.dino_head_wd_multiplier,
            )
        return groups

    def prepare_for_distributed_training(self) -> list[str]:
        """Activation checkpointing, compilation, sharding, in that order; returns what was done, to be printed.

        Last of all: weights are there, adapters are added. Each process then keeps its part of them.
        """
        self.parallel = choose_parallel(self.cfg, self.precision, self.student, self._frozen(), self.peers.per_machine)
        done = parallelize(self.cfg, self.student, self._frozen(), self.parallel)
        if self.da3_teacher is not None:
            done += self.da3_teacher.prepare(compiled=self.cfg.train.compile)
        return done

    def whole_ema_backbone(self, device: torch.device | str, *, copy: bool = False) -> Backbone | None:
        """The EMA backbone; when it is sharded or a ``copy`` is wanted, a new one on the main process's ``device`` and None
        on the others.

        Every process must call it.
        """
        backbone = cast(Backbone, self.model_ema["backbone"])
        if not self.parallel.shards and not copy:
            return backbone

        def empty() -> nn.Module:
            with torch.device("meta"):
                copy = self._backbone(drop_path=False)
            return copy.to_empty(device=device).eval()

        return cast(Backbone | None, gather(backbone, empty))
