from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dinov3.config.load import load_students
from dinov3.distributed.peers import ALONE
from dinov3.engine.command import add_arguments
from dinov3.runs.signals import StopRequest
from dinov3.runs.step_folders import step_folders
from dinov3.system.errors import EXIT_PREEMPTED
from dinov3.system.parser import Parser
from dinov3.train import students
from dinov3.train.command import main, prepared
from tests.train.tiny import command, overrides

WORDS = [word for word in overrides() if not word.startswith("train.batch_size_per_gpu")]  # follows from that of all


def yaml_of(folder: Path, teacher: Path, count: int) -> Path:
    """Students of one process each."""
    (folder / "own.yaml").write_text("student: {embed_dim: 32, num_heads: 1}\n")
    own = str(folder / "own.yaml")
    listed = [{"name": f"s{i}", "config_path": own, "ranks_range": [i, i + 1]} for i in range(count)]
    tree = {
        "distillation": {
            "enabled": True,
            "full_cfg_path": str(teacher / "config.yaml"),
            "checkpoint_path": str(teacher),
        },
        "multidistillation": {"enabled": True, "global_batch_size": 8, "students": listed},
    }
    (folder / "all.yaml").write_text(yaml.safe_dump(tree))
    return folder / "all.yaml"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher") / "run"
    assert main(command(out, train__max_steps=1)) == 0
    return out


@pytest.fixture
def asked() -> StopRequest:
    """A request to stop that was made before training began."""
    stop = StopRequest(())
    stop.signal_name = "SIGINT"
    return stop


def test_a_student_stops_when_its_caller_asks_for_it(teacher: Path, asked: StopRequest, tmp_path: Path) -> None:
    parser = Parser()
    add_arguments(parser)
    words = ["--config-file", str(yaml_of(tmp_path, teacher, 1)), "--output-dir", str(tmp_path / "run"), *WORDS]
    args = parser.parse_intermixed_args(words)
    args.multi_distillation = False
    assert prepared(args).train(asked) == EXIT_PREEMPTED
    assert [int(path.name.rpartition("-")[2]) for path in step_folders(tmp_path / "run" / "s0")] == [1]


def test_each_of_several_students_has_the_stop_request_of_the_caller(
    teacher: Path, asked: StopRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Any] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(students, "join", lambda *args: ALONE)
    monkeypatch.setattr(students, "run", lambda job, *, stop, **kwargs: heard.append((job.run.path.name, stop)) or 0)
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        both = load_students(yaml_of(tmp_path, teacher, 2), WORDS)
        assert students.run_students(both, tmp_path / "run", resume=True, stop=asked) == 0
    assert heard == [("s0", asked), ("s1", asked)]
