"""The parts of a training model that its config switches on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from dinov3.config.archs import CONVNEXT_ARCHS
from dinov3.config.derived import largest_global_crop
from dinov3.config.load import load_config
from dinov3.config.schema import Config
from dinov3.models.build import build_backbone
from dinov3.objectives.dino import Dino
from dinov3.objectives.ibot import Ibot

if TYPE_CHECKING:
    pass


def build_distillation_teacher(cfg: Config) -> nn.ModuleDict:
    """The frozen model to distil, with its heads, as its own YAML describes it; ValueError when it cannot teach this student."""
    theirs = load_config(cfg.distillation.full_cfg_path)
    for block, key in (("dino", "head_n_prototypes"), ("ibot", "head_n_prototypes")):
        own, other = getattr(getattr(cfg, block), key), getattr(getattr(theirs, block), key)
        if own != other:
            raise ValueError(
                f"{block}.{key}: {own}, but the teacher in {cfg.distillation.full_cfg_path} has {other}: make them equal"
            )
    if problem := _grid_problem(cfg, theirs):
        raise ValueError(problem)
    backbone = build_backbone(theirs.student, img_size=largest_global_crop(theirs), drop_path=False)
    heads = [Dino(theirs, backbone.embed_dim).ema_modules(), Ibot(theirs, backbone.embed_dim).ema_modules()]
    return nn.ModuleDict({"backbone": backbone, **heads[0], **heads[1]})


def _grid_problem(cfg: Config, theirs: Config) -> str | None:
    """Masks are counted on the student's grid: the teacher's must be it, or be brought to it, as to a ConvNeXt's."""
    own, other = cfg.student.patch_size, theirs.student.patch_size
    scale, where = cfg.crops.teacher_to_student_resolution_scale, cfg.distillation.full_cfg_path
    if scale == 1 and own != other and cfg.student.arch not in CONVNEXT_ARCHS:
        return f"student.patch_size: {own}, but the teacher in {where} has {other}: make them equal"
    if scale != 1 and own != scale * other:
        return (
            f"crops.teacher_to_student_resolution_scale: {scale:g}, but a patch of the student is {own} px and one of the "
            f"teacher in {where} {other} px: use {max(own / other, 1):g}"
        )
    return None
