"""Student, EMA teacher, frozen teachers and objectives, put together into one training step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from dinov3.config.derived import largest_global_crop, skips_unread_tokens
from dinov3.config.schema import Config
from dinov3.contracts import GLOBAL_CROPS, CropBatch, Features, StepContext, StudentView, TeacherLogits, TeacherView
from dinov3.distributed import parallel
from dinov3.distributed.peers import ALONE, Peers
from dinov3.distributed.replicate import EarlySums
from dinov3.engine.optim import ParamGroup, ema_update, parameter_groups
from dinov3.engine.precision import Precision
from dinov3.models.backbone import Backbone
from dinov3.models.build import build_backbone
from dinov3.models.initialization import fill_with_nan
from dinov3.models.lora import merged_parameters
from dinov3.models.token_grid import resample_tokens
from dinov3.objectives.base import Objective, ObjectiveParts
from dinov3.objectives.dino import Dino
from dinov3.objectives.ibot import Ibot
from dinov3.objectives.table import objectives
from dinov3.teachers.base import Grid, Parts
from dinov3.teachers.frozen import shrunk
from dinov3.teachers.gram import GramTeacher
from dinov3.teachers.shared import divide, shared_logits
from dinov3.teachers.table import teachers
from dinov3.train.parallelize import choose_parallel, parallelize
from dinov3.train.parts import build_distillation_teacher
from dinov3.weights.own import without_aliases
from dinov3.weights.pretrained import LoadReport

if TYPE_CHECKING:
    from dinov3.teachers.da3 import Da3Teacher


class SSLMetaArch(nn.Module):
    """The trainable whole. ``student`` learns; ``model_ema`` follows it and teaches.

    State-dict names are DINOv3's: ``student.*``, ``model_ema.*``, ``dino_loss.center``, ``ibot_patch_loss.center``.
    Built with storage but without values: call ``init_weights`` before use.
    """

    dino_loss: Dino  # objectives are registered under the names DINOv3's checkpoints have
    ibot_patch_loss: Ibot
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
        self.heads_alone = False  # in this step: head warm-up
        with torch.device("meta"):
            self.student = nn.ModuleDict({"backbone": self._backbone(drop_path=True)})
            self.model_ema = nn.ModuleDict({"backbone": self._backbone(drop_path=False)})
            self.embed_dim = cast(Backbone, self.student["backbone"]).embed_dim
        parts = Parts(torch.device(device), self.model_ema, self.like_student)
        self.teachers = {teacher.name: teacher for teacher in teachers(cfg, parts)}  # beside the EMA
        for teacher in self.teachers.values():
            if teacher.model is not None:
                self.add_module(teacher.state_name, teacher.model)
        with torch.device("meta"):
            widths = {name: teacher.embed_dim for name, teacher in self.teachers.items() if teacher.embed_dim}
            self.objectives = objectives(cfg, ObjectiveParts(self.embed_dim, widths))
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
        self.early_sums: EarlySums | None = None
        self.to_empty(device=device)
        fill_with_nan(self)
        for frozen in self._frozen():
            frozen.requires_grad_(False)
        self.train()

    def like_student(self) -> nn.ModuleDict:
        """A backbone of the student's architecture, on no device."""
        with torch.device("meta"):
            return nn.ModuleDict({"backbone": self._backbone(drop_path=False)})

    def _backbone(self, *, drop_path: bool) -> nn.Module:
        return build_backbone(self.cfg.student, img_size=largest_global_crop(self.cfg), drop_path=drop_path)

    def train(self, mode: bool = True) -> SSLMetaArch:
        """Training mode for the student; teachers stay in eval mode whatever ``mode`` is."""
        super().train(mode)
        for frozen in self._frozen():
            frozen.eval()
        return self

    def _frozen(self) -> list[nn.ModuleDict]:
        """Models inside the module tree that learn nothing by gradient."""
        own = [teacher.model for teacher in self.teachers.values() if teacher.model is not None]
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
        for teacher in self.teachers.values():
            teacher.copy_start(self.model_ema)

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
        self, batch: CropBatch, ema: TeacherView, grid: Grid, iteration: int
    ) -> dict[str, TeacherView]:
        """What every teacher but the EMA's says about a batch, on the student's grid, by name; those that have weights."""
        views = {name: self._output(name, batch, ema, grid, iteration) for name in self.teachers}
        return {name: view for name, view in views.items() if view is not None}

    def _output(self, name: str, batch: CropBatch, ema: TeacherView, grid: Grid, step: int) -> TeacherView | None:
        with torch.no_grad():
            return self.teachers[name].output(batch, ema, grid, step)

    @torch.no_grad()
    def get_teacher_output(self, images: Tensor, *, teacher_temp: float, mask_indices_list: Tensor) -> TeacherView:
        """Targets from the unmasked global crops ``[G*B, C, H, W]``: ``cls``, ``patches``, ``cls_targets``, ``patch_targets``."""
        out = self.get_teacher_logits(images, mask_indices_list)
        cls_targets = self.dino_loss.targets(out.cls_logits, teacher_temp)
        return out.view(cls_targets, self.ibot_patch_loss.targets(out.masked_logits, teacher_temp))

    @property
    def narrow(self) -> bool:
        """Whether the last blocks finish only the tokens that are read: CLS tokens and masked patches."""
        parts = self.cfg.train.gradient_accumulation_steps
        for objective in self.objectives:
            if objective.reads_every_patch or (parts > 1 and "patches" in objective.joint_features):
                return False
        return skips_unread_tokens(self.cfg, self.precision.device.type)

    @torch.no_grad()
    def get_teacher_logits(self, images: Tensor, mask_indices_list: Tensor) -> TeacherLogits:
        """``get_teacher_output`` before centering."""
        grid = cast(Backbone, self.student["backbone"]).grid_of(images)
        images = shrunk(images, self.cfg.crops.teacher_to_student_resolution_scale)
        if self.peers.several:
            division = divide(self.peers.ranks, self.peers.number, len(images) // GLOBAL_CROPS)
            return shared_logits(self.teacher, images, mask_indices_list, division, self.peers.gather, grid)
        narrow = self.narrow and not self.cfg.distillation.enabled  # a frozen teacher may have another grid
        read = mask_indices_list if narrow else None
        features: Features = self.teacher["backbone"](images, is_training=True, read=read)
        patches = resample_tokens(features.patches, features.grid, grid)
        cls_logits = self.teacher["dino_head"](features.cls).unflatten(0, (GLOBAL_CROPS, -1))  # [G, B, K]
        masked = patches.flatten(0, 1).index_select(0, mask_indices_list)  # [M, D]
        whole = None if narrow else patches
        return TeacherLogits(features.cls, cls_logits, self.teacher["ibot_head"](masked), grid, whole)

    def get_gram_teacher_output(self, batch: CropBatch, ema: TeacherView, grid: Grid, step: int) -> TeacherView | None:
        """``patches [G*B, P, D]`` of the Gram teacher on the student's grid; None before it has weights."""
        return self._output(GramTeacher.name, batch, ema, grid, step)

    def get_da3_teacher_output(
        self, clean_global_crops: Tensor | None, mask_indices_list: Tensor, grid: Grid
    ) -> TeacherView:
        """DA3 ``tokens [M, D']`` at the masked positions, or of every patch with ``da3.loss_on: all``.

        ``clean_global_crops [G*B, 3, H, W]``; ``mask_indices_list [M]`` indexes their flattened student grid.
        """
        return self.da3_teacher.view(clean_global_crops, mask_indices_list, grid)

    @property
    def da3_teacher(self) -> Da3Teacher:
        """The Depth Anything 3 teacher of a run that has one."""
        return cast("Da3Teacher", self.teachers["da3"])

    def get_student_features(self, batch: CropBatch) -> list[Features]:
        """The student's backbone on the masked global crops and, when there are any, the local crops, in one pass."""
        crops = [batch.collated_global_crops, batch.collated_local_crops]
        # a distilled student sees whole images, as its frozen teacher does
        masks = [None if self.cfg.distillation.enabled else batch.collated_masks, None]
        if crops[1].shape[0] == 0:
            crops, masks = crops[:1], masks[:1]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.heads_alone):
            read = batch.mask_indices_list if self.narrow else None
            features: list[Features] = self.student["backbone"](crops, masks, is_training=True, read=read)
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
            patches=features[0].patches[:, :0] if self.narrow else features[0].patches,
            grid=features[0].grid,
            masked_patch_pre_head=masked,
            masked_patch_after_head=self.student["ibot_head"](masked),
        )
        local_cls = features[-1].cls if len(features) == 2 else features[0].cls[:0]
        student_local = StudentView(
            cls_pre_head=local_cls.reshape(-1, b, local_cls.shape[-1]),
            cls_after_head=logits[n_global:].reshape(-1, b, logits.shape[-1]),
            patches=features[-1].patches[:, :0] if self.narrow else features[-1].patches,
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

    def before_step(self, iteration: int) -> None:
        """Teachers that change at a given step, objectives that collect something over its batches, head warm-up."""
        if self.cfg.train.cudagraphs:
            torch.compiler.cudagraph_mark_step_begin()  # what graphs gave in the step before is no longer needed
        self.heads_alone = iteration < self.head_warmup_steps
        for teacher in self.teachers.values():
            teacher.before_step(iteration, self.model_ema)
        for objective in self.objectives:
            objective.before_step()

    def last_backward(self) -> None:
        """The next backward pass is the last of the step: gradients of whole copies may be summed while it runs."""
        if self.early_sums is not None:
            self.early_sums.last_backward()

    def finish_backward(self) -> None:
        """Make every gradient its mean over processes, where that has not been done."""
        if self.early_sums is not None:
            self.early_sums.finish()
        else:
            self.parallel.finish_backward(self.student)

    def update_gram(self, iteration: int) -> None:
        """Change the teachers that are due after this step: the Gram teacher takes over the EMA."""
        for teacher in self.teachers.values():
            teacher.after_step(iteration, self.model_ema)

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
        self.early_sums = self.parallel.early_sums(self.student)
        return [*done, *(x for t in self.teachers.values() for x in t.prepare(compiled=self.cfg.train.compile))]
