"""Cases D: the whole training step and short training runs; F02: checkpoint layouts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml
from torch import Tensor

from dinov3.config.load import load_config
from dinov3.config.schema import Config
from dinov3.contracts import CropBatch
from dinov3.engine.optim import build_optimizer
from dinov3.engine.schedules import build_schedules
from dinov3.engine.step import train_step
from dinov3.objectives.gram import select
from dinov3.runs.state import allocate_optimizer_state, training_tensors
from dinov3.train.ssl_meta_arch import SSLMetaArch
from dinov3.train.task import Pretraining
from tests.golden.case import Case


def official_yaml(folder: Path, name: str, cfg: dict[str, Any], arch: dict[str, Any]) -> Path:
    """The official YAML of a case; only the architecture's name differs."""
    tree = {block: dict(keys) for block, keys in cfg.items()}
    tree.setdefault("student", {})
    tree["student"] |= {"arch": "vit_small", **arch}
    path = folder / name
    path.write_text(yaml.safe_dump(tree))
    return path


def config_of(case: Case, folder: Path) -> Config:
    """The case's config, through the loader every user goes through."""
    section = case.meta["config"]
    cfg = dict(section["cfg"])
    if section.get("distill"):
        theirs = section["distill"]
        merged = {b: {**cfg.get(b, {}), **theirs["cfg"].get(b, {})} for b in {*cfg, *theirs["cfg"]}}
        path = official_yaml(folder, "teacher.yaml", merged, theirs["arch"])
        cfg["distillation"] = {"enabled": True, "full_cfg_path": str(path), "checkpoint_path": "ignore"}
    return load_config(official_yaml(folder, "run.yaml", cfg, section["arch"]))


def batch_of(case: Case, prefix: str) -> CropBatch:
    arrays = {k.removeprefix(prefix): case.tensor(k) for k in case.arrays if k.startswith(prefix)}
    scalars = {k: int(arrays.pop(k)) for k in ("upperbound", "global_batch_size")}
    return CropBatch(**arrays, **scalars)


def filled_model(case: Case, cfg: Config) -> SSLMetaArch:
    model = SSLMetaArch(cfg, case.device)
    model.init_weights(torch.Generator(case.device).manual_seed(0))
    own = model.state_dict()
    # without distillation teacher.* and model_ema.* are one model here, two names of the same tensors there
    dropped = () if cfg.distillation.enabled else ("teacher.",)
    state = {k: v for k, v in case.state().items() if not k.startswith(dropped)}
    expected = set(state) | {k for k in case.computed_keys() if not k.startswith(dropped)}
    assert expected == set(own), f"names differ: {sorted(expected ^ set(own))[:6]}"
    model.load_state_dict({**own, **state}, strict=True)
    return model


def check_forward_backward(case: Case, cfg: Config) -> None:
    model = filled_model(case, cfg)
    seen: dict[str, Any] = {}

    def spying(name: str) -> Callable[..., Any]:
        original = getattr(model, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            seen[name] = original(*args, **kwargs)
            return seen[name]

        return call

    names = ("get_teacher_output", "get_student_output", "get_other_teachers")
    with patch.multiple(model, **{n: spying(n) for n in names}):
        total, terms = model.forward_backward(
            batch_of(case, "in/batch/"),
            teacher_temp=case.meta["config"]["teacher_temp"],
            iteration=case.meta["config"]["iteration"],
        )
    case.check("fb/total_loss", total)
    for name in case.meta["loss_dict"]:
        case.check(f"fb/loss_dict/{name}", torch.as_tensor(terms[name], dtype=torch.float32))
    if cfg.gram.use_loss:
        batch, view = batch_of(case, "in/batch/"), seen["get_student_output"][0]
        patches = seen["get_other_teachers"]["gram"].patches
        pair = select(view.patches, patches, batch, cfg.gram.tokens_used)
        case.check("gram/student_patches", pair[0])
        case.check("gram/teacher_patches", pair[1])
    teacher, (student_global, student_local) = seen["get_teacher_output"], seen["get_student_output"]
    case.check("teacher/cls_pre_head", teacher.cls.unflatten(0, (2, -1)))
    case.check("teacher/cls_centered", teacher.cls_targets.dense())
    case.check("teacher/masked_patch_centered", teacher.patch_targets.dense())
    for name in ("cls_pre_head", "cls_after_head", "masked_patch_pre_head"):
        case.check(f"student_global/{name}", getattr(student_global, name))
    for name in ("cls_pre_head", "cls_after_head"):
        case.check(f"student_local/{name}", getattr(student_local, name))
    grads = {n: p.grad for n, p in model.student.named_parameters()}
    for key in case.arrays:
        if key.startswith("grad/") and key != "grad/norms":
            case.check(key, grads[key.removeprefix("grad/")])
    norms = [grads[n] for n in case.meta["grad_norm_names"]]
    case.check("grad/norms", torch.stack([g.norm().cpu() if g is not None else torch.tensor(torch.nan) for g in norms]))


def check_training(case: Case, cfg: Config) -> None:
    model = filled_model(case, cfg)
    start = {k: v.clone() for k, v in model.named_parameters()}
    optimizer = build_optimizer(model.get_params_groups(), cfg.optim)
    schedules = build_schedules(cfg, world_size=1)
    rows: list[dict[str, Any]] = []
    for step in range(case.meta["train"]["steps"]):
        prefix = f"in/batch_it{step}/" if f"in/batch_it{step}/upperbound" in case.arrays else "in/batch/"
        now = schedules.at(step)
        result = train_step(
            Pretraining(model), optimizer, now, batch_of(case, prefix), step=step, clip_grad=cfg.optim.clip_grad
        )
        assert result.taken
        row = {"lr": now.lr, "wd": now.wd, "mom": now.momentum, "last_layer_lr": now.last_layer_lr}
        rows.append({"total_loss": result.loss, **result.terms, **row, "teacher_temp": now.teacher_temp})
    for name in case.meta["train"]["per_step"]:
        case.check(f"train/{name}", torch.tensor([float(r[name]) for r in rows]))
    parameters = dict(model.named_parameters())
    sides = {"student": "student", "ema": "model_ema", "gram_teacher": "gram_teacher", "teacher": "teacher"}
    for side, root in sides.items():
        if f"final_{side}_names" not in case.meta:
            continue
        names = [f"{root}.{n}" for n in case.meta[f"final_{side}_names"]]
        case.check(f"train/final_norms/{side}", torch.stack([parameters[n].norm() for n in names]))
        moved = torch.stack([(parameters[n] - start[n]).norm() for n in names])
        case.check(f"train/displacement_norms/{side}", moved)
        for key in case.arrays:
            if key.startswith(f"train/final/{side}/"):
                case.check(key, parameters[f"{root}.{key.removeprefix(f'train/final/{side}/')}"])


def run_training_case(case: Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cfg = config_of(case, Path(folder))
        check_forward_backward(case, cfg)
        check_training(case, cfg)
    case.fail_if_unchecked()


def run_layout_case(case: Case) -> None:
    """Names, shapes and dtypes of what official tools find in a checkpoint. We store the teacher once, not twice."""
    with tempfile.TemporaryDirectory() as folder:
        model = SSLMetaArch(config_of(case, Path(folder)))
    model.init_weights(torch.Generator().manual_seed(0))
    optimizer = build_optimizer(model.get_params_groups(), model.cfg.optim)
    allocate_optimizer_state(optimizer)

    def rows(state: dict[str, Tensor]) -> set[tuple[str, tuple[int, ...], str]]:
        return {(k, tuple(v.shape), str(v.dtype).removeprefix("torch.")) for k, v in state.items()}

    def stored(key: str) -> set[tuple[str, tuple[int, ...], str]]:
        return {(k, tuple(shape), dtype) for k, shape, dtype in case.meta[key] if dtype is not None}

    ours = training_tensors(model, model.checkpoint_state(), optimizer)
    ours = {k if k.startswith("optimizer.") else f"model.{k}": v for k, v in ours.items()}
    dcp = {
        r
        for r in stored("dcp_multi_tensor_optim")
        if not r[0].startswith(("model.teacher.", "optimizer.param_groups."))
    }
    comparisons = {
        "teacher_checkpoint": (rows(dict(model.model_ema.state_dict())), stored("teacher_checkpoint")),
        "hub_backbone": (rows(dict(model.model_ema["backbone"].state_dict())), stored("hub_backbone")),
        "dcp_multi_tensor_optim": (rows(ours), dcp),
    }
    for name, (got, expected) in comparisons.items():
        case.checked += 1
        if got != expected:
            case.failures.append(f"{name}: {sorted(got ^ expected)[:4]}")


RUNNERS = {"D": run_training_case, "F02": run_layout_case}
