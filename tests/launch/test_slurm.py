from __future__ import annotations

from pathlib import Path

import pytest

from dinov3.config.errors import ConfigError
from dinov3.launch import slurm
from dinov3.launch.resources import Resources

PARTITIONS = """\
PartitionName=batch AllowGroups=ALL Default=YES MaxTime=00:05:00 Nodes=node[1-2]
PartitionName=long AllowGroups=ALL Default=NO MaxTime=7-00:00:00 Nodes=node[1-2]
PartitionName=any AllowGroups=ALL Default=NO MaxTime=UNLIMITED Nodes=node[1-2]
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH but for the shell's own programs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("cat", "cp"):
        (folder / name).symlink_to(next(p for p in (Path("/bin", name), Path("/usr/bin", name)) if p.exists()))
    monkeypatch.setenv("PATH", str(folder))
    return folder


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_what_is_sent_is_kept_under_the_number_of_the_job(programs: Path, tmp_path: Path) -> None:
    program(programs, "sbatch", "echo sbatch: a word of the site >&2; echo Submitted batch job 4242 on cluster x")
    logs = tmp_path / "run" / "slurm"
    assert slurm.send("text\n", logs) == ("4242", "a word of the site")
    assert [(p.name, p.read_text()) for p in logs.iterdir()] == [("4242_submission.sh", "text\n")]


REFUSAL = """echo 'sbatch: error: invalid partition specified: gpu' >&2
echo 'sbatch: error: Batch job submission failed: Invalid partition name specified' >&2
exit 1"""
SAID = "invalid partition specified: gpu; Batch job submission failed: Invalid partition name specified"


@pytest.mark.parametrize(("text", "message"), [(REFUSAL, SAID), ("exit 3", "exit code 3"), ("echo ready", "ready")])
@pytest.mark.parametrize("there", [[], ["run"], ["run", "slurm"]])
def test_a_refusal_is_one_line_and_leaves_nothing(
    programs: Path, tmp_path: Path, there: list[str], text: str, message: str
) -> None:
    program(programs, "sbatch", text)
    logs = tmp_path / "run" / "slurm"
    tmp_path.joinpath(*there).mkdir(parents=True, exist_ok=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError) as caught:
        slurm.send("text\n", logs)
    assert str(caught.value) == f"sbatch: {message}"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("time", "partition", "qos", "message"),
    [
        ("0:05:00", None, None, None),
        ("0:05:01", None, None, "0:05:01 is 5 min 1 s, but the partition allows less (batch at most 5 min)"),
        ("6-23", "long", None, None),
        ("8-00", "long", None, "8-00 is 8 days, but the partition allows less (long at most 7 days)"),
        ("8-00", "long,batch", None, "(batch at most 5 min, long at most 7 days)"),
        ("1-00", "long,batch", None, None),  # it waits for the one that is long enough
        ("99-00", "any", None, None),
        ("8-00", "long", "lifted", None),
        ("8-00", "elsewhere", None, None),  # sbatch knows better
    ],
)
def test_a_job_longer_than_its_partition_allows_is_refused(
    programs: Path, time: str, partition: str | None, qos: str | None, message: str | None
) -> None:
    program(programs, "scontrol", f"cat <<'END'\n{PARTITIONS}END")
    asked = Resources(time=time, partition=partition, qos=qos)
    if message is None:
        slurm.refuse_longer_than_partition(asked)
        return
    with pytest.raises(ConfigError) as caught:
        slurm.refuse_longer_than_partition(asked)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", [None, "echo no controller >&2; exit 1", "echo what"])
def test_where_slurm_does_not_answer_nothing_is_said_about_partitions(programs: Path, text: str | None) -> None:
    if text is not None:
        program(programs, "scontrol", text)
    slurm.refuse_longer_than_partition(Resources(time="99-00"))
