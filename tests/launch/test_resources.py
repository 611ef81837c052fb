from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from dinov3.config.errors import ConfigError
from dinov3.launch.resources import Resources, add_arguments, read_resources


def parse(*arguments: str, cluster: Path | None = None) -> Resources:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cluster", type=Path)
    add_arguments(parser)
    return read_resources(parser.parse_args([*arguments, *(["--cluster", str(cluster)] if cluster else [])]))


@pytest.mark.parametrize(("text", "seconds"), [("90", 5400), ("12:00:00", 43200), ("30:00", 1800), ("1-12", 129600)])
def test_a_time_limit_is_read_as_slurm_writes_it(text: str, seconds: int) -> None:
    assert parse("--time", text).seconds == seconds


@pytest.mark.parametrize("text", ["", "0", "00:00:00", "2d", "1:75", "-5", "1.5", "UNLIMITED"])
def test_what_is_no_time_limit_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"command line: --time: .* is not a time limit"):
        parse(f"--time={text}")


def test_there_is_a_process_for_every_gpu_and_one_without() -> None:
    assert parse("--gpus-per-node", "4").tasks == 4
    assert parse("--gpus-per-node", "0").tasks == 1
    assert parse("--gpus-per-node", "4", "--tasks-per-node", "2").tasks == 2


def test_the_command_line_wins_over_the_file_of_the_cluster(tmp_path: Path) -> None:
    path = tmp_path / "alps.yaml"
    path.write_text(
        "partition: gpu\naccount: vision\ntime: 12:00:00\nsetup: [module load cuda]\nsbatch: {exclude: n1, nice: 5}\n"
    )
    got = parse("--partition", "debug", "--sbatch", "exclude=n2", cluster=path)
    assert (got.partition, got.account, got.seconds, got.setup) == ("debug", "vision", 43200, ["module load cuda"])
    assert got.sbatch == {"exclude": "n2", "nice": "5"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partitoin: gpu", "partitoin: unknown key (did you mean partition?)"),
        ("nodes: 0", "nodes: 0 is out of range: it must be >= 1"),
        ("nodes: two", "nodes: 'two' is not a whole number"),
        ("setup: module load cuda", "setup: 'module load cuda' is not a list (text each)"),
        ("launcher: mpirun", "launcher: 'mpirun' is not one of srun, torchrun (did you mean srun?)"),
        ("time: soon", "time: 'soon' is not a time limit: write minutes, minutes:seconds, hours:minutes:seconds, "),
        ('job_name: "a\\nb"', r"job_name: 'a\nb' holds '\n': it is to be one line of printable text"),
        ('partition: "a\\tb"', r"partition: 'a\tb' holds '\t': it is to be one line of printable text"),
        ('setup: ["a", "b\\rc"]', r"setup: 'b\rc' holds '\r': it is to be one line of printable text"),
        ('srun_args: ["--x=\\e[2J"]', "srun_args: "),
        ('sbatch: {exclude: "n1\\u2028n2"}', "sbatch: "),
        ('python: "python\\nrm"', "python: "),
        ("sbatch: {array: 0-3}", "sbatch: array cannot be given: all elements would train in one folder"),
        ("sbatch: {output: x}", "sbatch: output cannot be given: the logs go to the folder slurm of the run"),
        ("sbatch: {signal: USR1@9}", "sbatch: signal cannot be given: SIGUSR2 comes"),
        ("sbatch: {ntasks-per-node: 3}", "sbatch: ntasks-per-node has an option of its own: --tasks-per-node"),
    ],
)
def test_a_wrong_file_of_a_cluster_is_one_line_with_its_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "alps.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        parse(cluster=path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("exclude", "not option=value"),
        ("Ex clude=3", "not the long name"),
        ("arr=0-3", "arr is short for array"),
        ("chdir=/", "chdir cannot"),
    ],
)
def test_an_option_of_sbatch_has_a_name_and_a_value(option: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse("--sbatch", option)


def test_the_cluster_in_the_docs_can_be_used(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "machines.md").read_text(encoding="utf-8")
    path = tmp_path / "alps.yaml"
    path.write_text("partition:" + page.partition("```yaml\npartition:")[2].partition("```")[0])
    got = parse(cluster=path)
    assert (got.partition, got.mem, got.sbatch) == ("gpu", "0", {"exclude": "node07"})
    assert got.python is not None
