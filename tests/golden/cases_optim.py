"""Golden cases of the optimizer: C01 schedules, C02 parameter groups."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from dinov3.config.schema import Config, ScheduleConfig, SchedulesConfig
from dinov3.engine.optim import ParamRow, parameter_groups, parameter_rows
from dinov3.engine.schedules import build_schedules, cosine_schedule, linear_warmup_cosine_decay
from tests.golden.case import Case
from tests.golden.cases_losses import Checks


def run_schedules(case: Case) -> None:
    check = Checks(case)
    settings = case.meta["config"]
    for i, (row, beyond) in enumerate(zip(settings["cosine"], case.meta["cos_beyond_end"], strict=True)):
        schedule = cosine_schedule(**row)
        check(f"f64/cos{i}", schedule.values)
        if schedule[row["total_iters"] + 3] != beyond:
            case.failures.append(f"cos{i} beyond the end: {schedule[row['total_iters'] + 3]}, expected {beyond}")
    for i, row in enumerate(settings["linear"]):
        check(f"f64/lin{i}", linear_warmup_cosine_decay(**row).values)
    for style in ("v1", "v2"):
        for i, row in enumerate(settings[style]):
            name = f"{style}_{i}"
            cfg = config_of(case.meta["resolved_cfg"][name])
            schedules = build_schedules(cfg, row["world_size"])
            steps = range(0, schedules.total_steps, row["stride"])
            for quantity in ("lr", "weight_decay", "momentum", "teacher_temp", "last_layer_lr"):
                schedule = getattr(schedules, quantity)
                check(f"f64/{name}/{quantity}", np.array([schedule[step] for step in steps]))
            scaled = case.meta["scaled_base_lr"][name]
            if scaled is not None and not math.isclose(cfg.optim.lr * schedules.lr_scale, scaled, rel_tol=1e-9):
                case.failures.append(f"{name}: lr {cfg.optim.lr * schedules.lr_scale}, expected {scaled}")
    check.done()


def config_of(blocks: dict[str, dict[str, Any]]) -> Config:
    """The defaults with some blocks replaced."""
    cfg = Config()
    for name, values in blocks.items():
        if name == "schedules":
            cfg.schedules = SchedulesConfig(**{key: ScheduleConfig(**row) for key, row in values.items()})
            continue
        block = getattr(cfg, name)
        for key, value in values.items():
            assert hasattr(block, key), f"{name}.{key}"
            setattr(block, key, value)
    return cfg


def module_with(rows: list[list[Any]]) -> nn.Module:
    """Modules nested and named so that ``named_parameters`` gives these names, shapes and order."""
    root = nn.Module()
    for name, shape, *_ in rows:
        *path, leaf = name.split(".")
        owner = root
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        owner.register_parameter(leaf, nn.Parameter(torch.zeros(shape)))
    return root


def run_parameter_groups(case: Case) -> None:
    for name, model in case.meta["models"].items():
        module, options = module_with(model["rows"]), model["options"]
        rows = [_columns(row) for row in parameter_rows(module, **options)]
        for ours, expected in zip(rows, model["rows"], strict=True):
            case.checked += 1
            if ours[:2] + ours[3:] != expected[:2] + expected[3:] or not math.isclose(ours[2], expected[2]):
                case.failures.append(f"{name}: {ours}, expected {expected}")
        groups = parameter_groups(module, **options)
        for group, expected in zip(groups, model["fused_groups"], strict=True):
            case.checked += 1
            same = (len(group.params), group.wd_multiplier, group.is_last_layer) == (
                expected["n"],
                expected["wd_multiplier"],
                expected["is_last_layer"],
            )
            if not same or not math.isclose(group.lr_multiplier, expected["lr_multiplier"]):
                case.failures.append(f"{name}: {group.names}, expected {expected}")


def _columns(row: ParamRow) -> list[Any]:
    return [row.name, list(row.param.shape), row.lr_multiplier, row.wd_multiplier, row.is_last_layer]


RUNNERS: dict[str, Callable[[Case], None]] = {"C01": run_schedules, "C02": run_parameter_groups}
