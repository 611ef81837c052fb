"""All that can be known about stages before the first one starts: data, files, and what earlier starts have left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dinov3.config.errors import ConfigError
from dinov3.config.stages import named
from dinov3.engine.stages.plan import Planned
from dinov3.runs.folder import CHECKPOINTS
from dinov3.runs.records import refuse_missing_packages
from dinov3.runs.stage_record import read_stages
from dinov3.runs.step_folders import step_folders


def check_stages(plan: Sequence[Planned], out: Path, redone: Planned | None) -> None:
    """All that can be known before the first stage starts: data, files, shapes, and what earlier starts have left."""
    if (out / CHECKPOINTS).exists():
        raise ConfigError(str(out), "", "holds a run without stages: use another --output-dir")
    check_record(plan, out, redone)
    for stage in plan:
        with named(stage.name):
            if stage.cfg.train.device != plan[0].cfg.train.device:
                problem = (
                    f"is {stage.cfg.train.device}, that of the first stage {plan[0].cfg.train.device}: make them equal"
                )
                raise ConfigError("", "train.device", problem)
            if not stage.finished:
                refuse_missing_packages(stage.cfg)
                stage.job.open_data()
                check_files(stage, plan)
            if stage.before is not None:
                stage.job.check_beginning(stage.before.job)


def check_record(plan: Sequence[Planned], out: Path, redone: Planned | None) -> None:
    """ConfigError when stages that have begun are not those of the plan, or did not begin where they now would."""
    recorded = {stage.folder: stage for stage in read_stages(out)}
    planned = {stage.folder.name for stage in plan}
    for folder in recorded:
        if folder not in planned and step_folders(out / folder):
            problem = f"has begun in {out}, and is not among the stages any more: use another --output-dir"
            raise ConfigError("config", "stages", f"{folder} {problem}")
    for stage in plan:
        if not stage.reached or stage.before is None or (redone and stage.number > redone.number):
            continue
        record, before = recorded.get(stage.folder.name), stage.before
        began = Path(record.began_from).name if record and record.began_from else f"step-{before.reached:08d}"
        if not before.finished or began != f"step-{before.reached:08d}":
            length = f"{before.steps} steps" if not before.finished else f"step {before.reached}"
            raise ConfigError(
                f"stage {stage.name}",
                "",
                f"began from {before.name}'s {began}, but {before.name} now ends at {length}: put the old length back, "
                f"or rename {stage.folder} so that it starts again",
            )


def check_files(stage: Planned, plan: Sequence[Planned]) -> None:
    """ConfigError for a file that a later stage would miss after days."""
    own = {str(other.folder) for other in plan}
    for key, path in stage.job.files().items():
        if path and path not in own and not Path(path).exists():
            raise ConfigError("", key, f"{path}: no such file or folder")
