"""``stages.json`` of a run with several stages: where each of them is, and how far. Each is an ordinary run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dinov3.runs.folder import STAGES
from dinov3.system.files import write_json
from dinov3.system.json_file import JsonError, Maybe, read_object

FORMAT = "dinov3-stages"
FORM = {"name": str, "folder": str, "steps": int, "finished": bool, "began_from": Maybe(str)}


@dataclass(frozen=True)
class StageRecord:
    """One stage. Checkpoints are the truth; this is for people, and for those who want the run's backbone."""

    name: str
    folder: str  # below the run folder
    steps: int  # it is to train
    finished: bool = False
    began_from: str | None = None  # the checkpoint of an earlier stage, below the run folder


def read_stages(run: Path) -> list[StageRecord]:
    """The stages of a run; none when it has no ``stages.json``. ValueError when that cannot be understood."""
    path = run / STAGES
    if not path.is_file():
        return []
    try:
        content = read_object(path, {"format": str, "stages": [FORM]})
        if content["format"] != FORMAT:
            raise JsonError("another format")
    except JsonError as error:
        raise ValueError(f"{path}: not the record of a run with stages: {error}") from error
    stages = [StageRecord(**{name: entry[name] for name in FORM if name in entry}) for entry in content["stages"]]
    for stage in stages:
        if stage.folder in ("", "..") or Path(stage.folder).name != stage.folder:
            raise ValueError(f"{path}: {stage.folder!r} is not a folder of this run")
    return stages


def write_stages(run: Path, stages: Sequence[StageRecord]) -> None:
    """Replace the record; a reader sees the old one or the new one."""
    content = {"format": FORMAT, "stages": [asdict(stage) for stage in stages]}
    write_json(run / STAGES, content)


def update_stage(run: Path, name: str, *, finished: bool = False, began_from: str | None = None) -> None:
    """Note what has become of one stage."""
    stages = read_stages(run)
    changed = [
        replace(s, finished=finished, began_from=began_from or s.began_from) if s.name == name else s for s in stages
    ]
    write_stages(run, changed)


def last_finished(run: Path) -> Path | None:
    """The folder of the last stage that is finished; None when none is."""
    done = [stage for stage in read_stages(run) if stage.finished]
    return run / done[-1].folder if done else None
