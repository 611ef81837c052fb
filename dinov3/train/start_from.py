"""What a run takes over from another one before its first step: ``start.*``. Stages follow one another so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from dinov3.engine.task import Counters
from dinov3.runs.checkpoint import fill_tensors, stored_shapes
from dinov3.runs.manifest import read_train_state
from dinov3.runs.state import named_optimizer_tensors
from dinov3.runs.step_folders import CheckpointError
from dinov3.train.ssl_meta_arch import SSLMetaArch

STUDENT, EMA = "student", "model_ema"
OPTIMIZER = "optimizer.state."
# Teachers with weights of their own: a run fills them as its own config says.
TEACHERS = {"gram_teacher", "anchor_teacher", "teacher"}
Shapes = Mapping[str, tuple[int, ...]]


def module_of(name: str) -> str:
    """``student.dino_head`` for a tensor of the student or the EMA, else the first word: ``dino_loss``."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] in (STUDENT, EMA) else parts[0]


def take_over(model: SSLMetaArch, checkpoint: Path) -> list[str]:
    """Student, EMA, heads and centres of ``checkpoint``; whole modules strictly; returns what was done, to be printed.

    Before LoRA, compilation and sharding. A head the other run had not stays fresh, one this run has not is left out.
    Raises CheckpointError when a module differs.
    """
    stored = stored_shapes(checkpoint / "state")
    own = {k: v for k, v in model.state_dict().items() if module_of(k) not in TEACHERS}
    from_ema = model.cfg.start.student == "ema"
    names = {k: _name_there(k, stored, from_ema=from_ema) for k in own}
    theirs = {module_of(k) for k in stored if not k.startswith(OPTIMIZER)} - TEACHERS
    shared = {module_of(k) for k in own} & theirs
    refuse_differences(
        {names[k]: tuple(v.shape) for k, v in own.items() if module_of(k) in shared},
        {k: v for k, v in stored.items() if module_of(k) in {module_of(names[n]) for n in own} & shared},
        f"start.run: {checkpoint}",
    )
    chosen = {k: v for k, v in own.items() if module_of(k) in shared}
    for part in (STUDENT, ""):  # twice: with start.student=ema two tensors come from one
        fill_tensors(
            {names[k]: v for k, v in chosen.items() if k.startswith(f"{STUDENT}.") == bool(part)}, checkpoint / "state"
        )
    model.copy_start_to_teachers()
    fresh, left = sorted({module_of(k) for k in own} - shared), sorted(theirs - {module_of(k) for k in own})
    whose = "the EMA in student and EMA" if from_ema else "student and EMA"
    return [
        f"start      {checkpoint}: {whose}, {len(chosen)} tensors"
        + (f"; fresh: {', '.join(fresh)}" if fresh else "")
        + (f"; left out: {', '.join(left)}" if left else "")
    ]


def _name_there(name: str, stored: Shapes, *, from_ema: bool) -> str:
    """Where a tensor of this run is in the other one's checkpoint."""
    of_ema = f"{EMA}.{name.removeprefix(f'{STUDENT}.')}"
    has_ema = any(module_of(k) == module_of(of_ema) for k in stored)  # a head may have none
    return of_ema if from_ema and name.startswith(f"{STUDENT}.") and has_ema else name


def refuse_differences(own: Shapes, theirs: Shapes, source: str) -> None:
    """CheckpointError unless names and shapes are the same."""
    missing, unexpected = sorted(set(own) - set(theirs)), sorted(set(theirs) - set(own))
    wrong = [f"{k} {theirs[k]}, here {own[k]}" for k in sorted(set(own) & set(theirs)) if own[k] != theirs[k]]
    if missing or unexpected or wrong:
        adapters = any("lora" in k.split(".") for k in unexpected)
        raise CheckpointError(
            f"{source}: does not fit this model: {_few('missing', missing)}, {_few('unexpected', unexpected)}, "
            f"{_few('of another shape', wrong)}; "
            + ("its student has LoRA adapters: start.student=ema" if adapters else "keep the student's and heads' keys")
        )


def _few(what: str, names: Iterable[str]) -> str:
    names = list(names)
    return f"{len(names)} {what}" + (f" ({', '.join(names[:3])})" if names else "")


def counters_after(checkpoint: Path) -> Counters:
    """Step 0, at the place in the data where the other run ended: no image order, crop or mask comes twice."""
    return Counters(samples=read_train_state(checkpoint)["counters"]["samples"])


@torch.no_grad()
def take_over_moments(model: SSLMetaArch, optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
    """AdamW's state for every parameter of a module the other run had; fresh heads keep zeros."""
    stored = stored_shapes(checkpoint / "state")
    known = {module_of(k) for k in stored}
    own: dict[str, Tensor] = {
        k: v for k, v in named_optimizer_tensors(model, optimizer) if module_of(k.removeprefix(OPTIMIZER)) in known
    }
    missing = sorted(set(own) - set(stored))
    if missing:
        raise CheckpointError(
            f"start.optimizer: {checkpoint}: has no moments of {', '.join(missing[:3])}: they did not train there; set it to false"
        )
    fill_tensors(own, checkpoint / "state")
