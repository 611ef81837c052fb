"""`dinov3 submit` up to the moment the job runs."""

from __future__ import annotations

import os
import pickle
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from submitit.core.utils import DelayedSubmission

from dinov3 import cli
from dinov3.config.load import load_students
from dinov3.launch.job import TorchrunJob, TrainingJob
from tests.train.tiny import overrides

SBATCH = '#!/bin/sh\ncp "$1" {seen}\necho Submitted batch job 4242\n'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text("train:\n  dataset_path: Synthetic:n=40:size=40\n  num_workers: 6\n")
    return path


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stub on PATH that keeps the script it was given."""
    folder = tmp_path / "bin"
    folder.mkdir()
    stub = folder / "sbatch"
    stub.write_text(SBATCH.format(seen=folder / "seen.sh"))
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return stub


def submit(config: Path, *arguments: str) -> int:
    return cli.main(["submit", "--config-file", str(config), "--output-dir", str(config.parent / "run"), *arguments])


FOUR_NODES = ["--nodes", "4", "--gpus-per-node", "8", "--partition", "gpu", "--account", "vision", "--qos", "high"]
FOUR_NODES += ["--time", "2-00:00:00", "--mem", "0", "--setup", "module load cuda/12.8", "--setup", "export A='b c'"]
FOUR_NODES += ["--srun-args=--container-image=/images/a b.sqsh", "--sbatch", "exclude=n[1-3]"]


def test_the_script_asks_for_what_was_asked(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit(config, *FOUR_NODES, "--dry-run", "checkpointing.preemption_notice=240") == 0
    script = capsys.readouterr().out
    options = [shlex.split(line)[1] for line in script.splitlines() if line.startswith("#SBATCH")]
    assert {
        *("--nodes=4", "--gpus-per-node=8", "--ntasks-per-node=8", "--cpus-per-task=8", "--mem=0", "--time=2880"),
        *("--partition=gpu", "--account=vision", "--qos=high", "--exclude=n[1-3]", "--job-name=run"),
        *("--requeue", "--signal=USR2@240", "--open-mode=append"),
    } <= set(options)
    assert len({o.partition("=")[0] for o in options}) == len(options), "no option twice"
    lines = script.splitlines()
    srun = next(line for line in lines if line.startswith("srun "))
    assert lines.index("module load cuda/12.8") < lines.index("export A='b c'") < lines.index(srun)
    words = shlex.split(srun)
    assert {"--kill-on-bad-exit=1", "--cpus-per-task=8", "--container-image=/images/a b.sqsh"} <= set(words)
    assert not list(config.parent.glob("run*")), "a dry run writes nothing"
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


def test_a_dry_run_prints_exactly_what_is_submitted(
    config: Path, sbatch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(config, *FOUR_NODES, "--dry-run") == 0
    script = capsys.readouterr().out
    assert submit(config, *FOUR_NODES) == 0
    assert (sbatch.parent / "seen.sh").read_text() == script
    assert "job 4242: 4 x 8 processes" in capsys.readouterr().out


def test_a_waiting_job_keeps_the_config_it_was_submitted_with(config: Path, sbatch: Path) -> None:
    before = config.read_text()
    assert submit(config, "optim.epochs=30") == 0
    config.write_text("train: {seed: 1}\n")
    logs = config.parent / "run" / "slurm"
    job = DelayedSubmission.load(logs / "4242_submitted.pkl").function
    assert isinstance(job, TrainingJob)
    option, copied, *rest = job.argv
    assert (option, Path(copied).read_text()) == ("--config-file", before)
    assert rest == ["--output-dir", str(config.parent / "run"), "optim.epochs=30"]


def students(config: Path) -> None:
    """Make ``config`` one of two students on four processes."""
    layout = []
    for name, ends in (("a", [0, 1]), ("b", [1, 4])):
        file = config.parent / f"{name}.yaml"
        file.write_text("student: {arch: vit_small}\n")
        layout.append({"name": name, "config_path": str(file), "ranks_range": ends})
    settings = {"enabled": True, "global_batch_size": 12, "students": layout}
    teacher = {"enabled": True, "full_cfg_path": "t.yaml", "checkpoint_path": "t"}
    more = {"multidistillation": settings, "distillation": teacher}
    config.write_text(config.read_text() + yaml.safe_dump(more))


def test_a_waiting_job_keeps_the_configs_of_its_students_too(config: Path, sbatch: Path) -> None:
    students(config)
    assert submit(config, "--nodes", "2", "--gpus-per-node", "2") == 0
    job = DelayedSubmission.load(config.parent / "run" / "slurm" / "4242_submitted.pkl").function
    (config.parent / "a.yaml").write_text("student: {arch: vit_base}\n")
    config.write_text("not: a config\n")
    assert isinstance(job, TrainingJob)
    kept = load_students(job.argv[job.argv.index("--config-file") + 1], job.argv[job.argv.index("--output-dir") + 2 :])
    assert [(s.name, s.ranks, s.cfg.student.arch) for s in kept] == [
        ("a", range(1), "vit_small"),
        ("b", range(1, 4), "vit_small"),
    ]


@pytest.mark.parametrize("where", [["--nodes", "1", "--gpus-per-node", "8"], ["--local", "--tasks-per-node", "8"]])
def test_a_job_of_another_size_than_its_students_is_refused(
    config: Path, where: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    students(config)
    assert submit(config, *where, "--dry-run") == 78
    assert "the ranges are for 4 processes, the job has 8: change --nodes or" in capsys.readouterr().err


def test_torchrun_is_one_task_a_machine_with_all_its_cores(
    config: Path, sbatch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(config, "--nodes", "2", "--gpus-per-node", "4", "--launcher", "torchrun") == 0
    script = (sbatch.parent / "seen.sh").read_text()
    assert "--ntasks-per-node=1\n" in script
    assert "--cpus-per-task=32\n" in script
    job = DelayedSubmission.load(config.parent / "run" / "slurm" / "4242_submitted.pkl").function
    assert isinstance(job, TorchrunJob)
    assert (job.processes, job.shutdown_timeout) == (4, 300)


def test_a_long_notice_is_a_long_patience_of_torchrun(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torchrun = ["--local", "--launcher", "torchrun", "--tasks-per-node", "2", "--dry-run"]
    assert submit(config, *torchrun, "checkpointing.preemption_notice=900") == 0
    command = shlex.split(capsys.readouterr().out)
    assert command[command.index("--shutdown-timeout") + 1] == "900"
    signals = command[command.index("--signals-to-handle") + 1].split(",")
    assert {"SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2"} <= set(signals)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optim.lrr=3"], "command line: optim.lrr: unknown key (did you mean optim.lr?)"),
        (
            ["--time", "2", "checkpointing.preemption_notice=120"],
            "--time: 2 is shorter than checkpointing.preemption_notice, 120 s",
        ),
        (["--local", "--setup", "ls"], "--setup: does nothing with --local, leave it out"),
        (["--nodes", "0"], "--nodes: 0 is out of range: it must be >= 1"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(
    config: Path, sbatch: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(config, *arguments) == 78
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (config.parent / "run").exists()
    assert not (sbatch.parent / "seen.sh").exists()


def test_without_slurm_it_says_so(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert submit(config) == 78
    assert "no sbatch here" in capsys.readouterr().err
    assert not (config.parent / "run").exists()


def test_a_refusal_of_sbatch_is_one_line_and_leaves_no_job(
    config: Path, sbatch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sbatch.write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: gpu' >&2; exit 1\n")
    assert submit(config, "--partition", "gpu") == 78
    assert capsys.readouterr().err == "error: sbatch: error: invalid partition specified: gpu\n"
    assert [p.suffix for p in (config.parent / "run" / "slurm").iterdir()] == [".yaml"]


@pytest.mark.parametrize("job", [TrainingJob(("--output-dir", "/r", "a.b=1")), TorchrunJob(("--output-dir", "/r"), 2)])
def test_a_requeued_job_is_the_same_job(job: TrainingJob | TorchrunJob) -> None:
    # submitit requeues on a timeout only what has a method of this very name
    again = job.checkpoint()
    assert isinstance(again, DelayedSubmission)
    loaded = pickle.loads(pickle.dumps(again))
    assert loaded.function == job
    assert (loaded.args, loaded.kwargs) == ((), {})


def test_the_overrides_of_a_command_reach_the_job(config: Path, sbatch: Path) -> None:
    assert submit(config, *overrides()) == 0
    job = DelayedSubmission.load(config.parent / "run" / "slurm" / "4242_submitted.pkl").function
    assert list(job.argv[-len(overrides()) :]) == overrides()
