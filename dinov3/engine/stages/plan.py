"""Which stages there are, where each is run, and how far it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from dinov3.config.run_config import RunConfig
from dinov3.config.stages import EARLIER, Stage, named
from dinov3.engine.job import Job
from dinov3.engine.resume import changed_since
from dinov3.runs.folder import RunFolder
from dinov3.runs.step_folders import newest_valid, step_of

T = TypeVar("T")
MakeJob = Callable[[Any, RunFolder], Job[Any]]  # from a config and a folder
# Say nothing about what was learnt.
PATHS = (
    "start.run",
    "gram.ckpt",
    "train.output_dir",
    "train.max_steps",
    "resume.",
)


@dataclass(frozen=True)
class Planned:
    """A stage with what follows from where it is run."""

    name: str
    number: int
    job: Job[Any]  # no `stage:NAME` in its config
    steps: int
    before: Planned | None  # the stage whose end is its beginning
    newest: Path | None  # its newest whole checkpoint
    open: bool = False  # it was killed after its last save: its last evaluation or pictures are missing

    @property
    def cfg(self) -> RunConfig:
        return self.job.cfg

    @property
    def folder(self) -> Path:
        return self.job.run.path

    @property
    def reached(self) -> int:
        """Steps in that checkpoint; 0: none."""
        return step_of(self.newest) if self.newest else 0

    @property
    def finished(self) -> bool:
        return self.reached >= self.steps and not self.open


def title_of(stage: Planned, count: int) -> str:
    """``2 of 3: gram``."""
    return f"{stage.number} of {count}: {stage.name}"


def changed_in(stage: Planned) -> list[str]:
    """The keys of a stage that were changed since it began."""
    return [key for key in changed_since(stage.cfg, stage.job.run, stage.newest) if not key.startswith(PATHS)]


def plan_stages(stages: Sequence[Stage], out: Path, make: MakeJob, *, resume: bool) -> list[Planned]:
    """Folders, lengths, and how far each stage is. Raises as ``run`` does for what cannot be used, naming the stage."""
    plan: list[Planned] = []
    for stage in stages:
        folder = out / f"stage-{stage.number}-{stage.name}"
        with named(stage.name):
            job = make(placed(stage, out, plan), RunFolder(folder))
            total = job.plan().total_steps
            newest = newest_valid(folder) if resume else None
        before = next((p for p in plan if stage.cfg.start.run == EARLIER + p.name), None)
        plan.append(
            Planned(
                name=stage.name,
                number=stage.number,
                job=job,
                steps=min(total, stage.cfg.train.max_steps or total),
                before=before,
                newest=newest,
            )
        )
    return plan


def placed(stage: Stage, out: Path, earlier: Sequence[Planned]) -> Any:
    """The stage's config with the run folder in place of every ``stage:NAME``, and a name of its own for its records."""
    cfg = _replaced(stage.cfg, {EARLIER + before.name: str(before.folder) for before in earlier})
    return replace(cfg, wandb=replace(cfg.wandb, name=f"{cfg.wandb.name or out.resolve().name}-{stage.name}"))


def _replaced(block: T, texts: dict[str, str]) -> T:
    """``block``, a dataclass, with other values for the keys, in it and its blocks, that are one of ``texts``."""
    values = {f.name: getattr(block, f.name) for f in fields(block)}  # type: ignore[arg-type]
    changed = {
        name: texts[value] if isinstance(value, str) else _replaced(value, texts)
        for name, value in values.items()
        if (isinstance(value, str) and value in texts) or (is_dataclass(value) and not isinstance(value, type))
    }
    return replace(block, **changed)  # type: ignore[type-var]
