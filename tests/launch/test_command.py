"""`dinov3 submit` up to the moment the job runs."""

from __future__ import annotations

import os
import pickle
import shlex
import shutil
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
IMAGES = 10_000  # one batch of 4 x 8 processes has 2,048


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(f"train:\n  dataset_path: Synthetic:n={IMAGES}:size=40\n  num_workers: 6\n")
    return path


@pytest.fixture(autouse=True)
def no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH without a SLURM, whatever this machine has."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "cp", "bash"):
        (folder / name).symlink_to(shutil.which(name) or "")
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def sbatch(no_slurm: Path) -> Path:
    """A stub on PATH that keeps the script it was given."""
    stub = no_slurm / "sbatch"
    stub.write_text(SBATCH.format(seen=no_slurm / "seen.sh"))
    stub.chmod(0o755)
    return stub


def training(script: str) -> list[str]:
    """The arguments of the training command in a script."""
    line = next(line for line in script.splitlines() if line.startswith("train=("))
    words = shlex.split(line.removeprefix("train=(").removesuffix(")"))
    return words[words.index("--") + 1 :]


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
        *("--nodes=4", "--gpus-per-node=8", "--ntasks-per-node=8", "--cpus-per-task=8", "--mem=0", "--time=2-00:00:00"),
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
    own = config.parent / "run" / "slurm"
    assert config.read_text() in script, "it needs no file of this machine"
    assert training(script)[-1] == "checkpointing.preemption_notice=240"
    assert Path(training(script)[1]).parent == own


def test_a_dry_run_prints_exactly_what_is_submitted(
    config: Path, sbatch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(config, *FOUR_NODES, "--dry-run") == 0
    printed = capsys.readouterr()
    assert "nothing was sent; the job would be 4 x 8 processes, 2 days a turn" in printed.err
    assert submit(config, *FOUR_NODES) == 0
    sent = (sbatch.parent / "seen.sh").read_text()
    lines = list(zip(sent.splitlines(), printed.out.splitlines(), strict=True))
    folder = config.parent
    assert [pair for pair in lines if pair[0] != pair[1]] == [
        (f"#SBATCH --output={folder}/run/slurm/%j_job.out", f"#SBATCH --output={folder}/run-%j_job.out")
    ], "until it is sent the run folder is not there, and SLURM makes none"
    said = capsys.readouterr().out
    assert "job 4242: 4 x 8 processes, 2 days a turn" in said
    assert "4242_0_log.out" in said
    assert "4242_0_log.err" in said
    assert (folder / "run" / "slurm" / "4242_submission.sh").read_text() == sent
    assert submit(config, *FOUR_NODES, "--dry-run") == 0
    assert capsys.readouterr().out == sent


def test_a_waiting_job_keeps_the_config_it_was_submitted_with(config: Path, sbatch: Path) -> None:
    before = config.read_text()
    assert submit(config, "optim.epochs=30") == 0
    config.write_text("train: {seed: 1}\n")
    script = (sbatch.parent / "seen.sh").read_text()
    option, copied, *rest = training(script)
    assert option == "--config-file"
    assert before in script
    assert rest == ["--output-dir", str(config.parent / "run"), "optim.epochs=30"]
    run_as_the_first_machine(script, config.parent)
    assert Path(copied).read_text() == before


def run_as_the_first_machine(script: str, folder: Path) -> None:
    """With a stub for srun, so that nothing is trained."""
    srun = folder / "bin" / "srun"
    srun.write_text("#!/bin/sh\n")
    srun.chmod(0o755)
    env = os.environ | {"PATH": f"{folder / 'bin'}:/usr/bin:/bin"}
    subprocess.run([shutil.which("bash") or "bash"], input=script, text=True, check=True, env=env)


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
    script = (sbatch.parent / "seen.sh").read_text()
    (config.parent / "a.yaml").write_text("student: {arch: vit_base}\n")
    config.write_text("not: a config\n")
    run_as_the_first_machine(script, config.parent)
    argv = training(script)
    kept = load_students(argv[argv.index("--config-file") + 1], argv[argv.index("--output-dir") + 2 :])
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
    assert "-m dinov3.launch.job --torchrun 4 --shutdown-timeout 300 -- --config-file" in script


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
            "--time: 2 is 2 min, and the signal to save comes 120 s (checkpointing.preemption_notice) before the end",
        ),
        (["--time", "0:02:30"], "0:02:30 is 2 min 30 s, and"),
        (["--time", "3"], "in SLURM up to 60 s earlier: give more than 3 min"),
        (["--local", "--time", "2:00"], "--time: 2:00 is 2 min, and the signal to save comes 120 s"),
        (["--sbatch", "array=0-1"], "--sbatch: array cannot be given: all elements would train in one folder"),
        (["--job-name", "a\ntouch pwned"], r"--job-name: 'a\ntouch pwned' holds '\n': it is to be one line"),
        (["--output-dir", "a\nb"], "--output-dir: "),
        (["--output-dir", "a\\b"], "--output-dir: "),
        (["--partition", "gpu\r#SBATCH --account=x"], "--partition: "),
        (["train.output_dir=a\nb", "--output-dir", "a\x1bb"], "--output-dir: "),
        (["wandb.name=a\udcffb"], r"command line: wandb.name=a\udcffb: is not UTF-8"),
        (["--local", "--output-dir", "a%jb"], "--output-dir: "),
        (["train.dataset_path=/no/such/folder"], "data: /no/such/folder"),
        (
            ["train.dataset_path=Synthetic:n=100:size=40"],
            "100 images, fewer than one batch of 512 (8 GPUs (--gpus-per-node, default 8) x 64",
        ),
        (
            ["--nodes", "2", "--gpus-per-node", "4", "train.dataset_path=Synthetic:n=100:size=40"],
            "of 512 (8 GPUs (--nodes 2, --gpus-per-node 4) x 64",
        ),
        (
            ["--tasks-per-node", "2", "train.dataset_path=Synthetic:n=100:size=40"],
            "of 128 (2 processes (--tasks-per-node 2) x 64",
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


def test_without_slurm_it_says_so(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit(config) == 78
    assert "no sbatch here" in capsys.readouterr().err
    assert not (config.parent / "run").exists()


def test_the_data_are_not_looked_at_where_they_are_said_to_be_elsewhere(config: Path, sbatch: Path) -> None:
    elsewhere = "train.dataset_path=/only/on/the/machines/of/the/job"
    assert submit(config, "--dry-run", elsewhere) == 78
    assert submit(config, "--dry-run", "--no-check", elsewhere) == 0
    assert submit(config, "--no-check", elsewhere) == 0
    assert training((sbatch.parent / "seen.sh").read_text())[-1] == elsewhere


def test_a_refusal_of_sbatch_is_one_line_and_leaves_nothing(
    config: Path, sbatch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sbatch.write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: gpu' >&2; exit 1\n")
    assert submit(config, "--partition", "gpu") == 78
    assert capsys.readouterr().err == "error: sbatch: invalid partition specified: gpu\n"
    assert not (config.parent / "run").exists()


@pytest.mark.parametrize("job", [TrainingJob(("--output-dir", "/r", "a.b=1")), TorchrunJob(("--output-dir", "/r"), 2)])
def test_a_requeued_job_is_the_same_job(job: TrainingJob | TorchrunJob) -> None:
    # submitit requeues on a timeout only what has a method of this very name
    again = job.checkpoint()
    assert isinstance(again, DelayedSubmission)
    loaded = pickle.loads(pickle.dumps(again))
    assert loaded.function == job
    assert (loaded.args, loaded.kwargs) == ((), {})


def test_the_overrides_of_a_command_reach_the_job(config: Path, sbatch: Path) -> None:
    assert submit(config, *overrides(), "--no-check") == 0
    assert training((sbatch.parent / "seen.sh").read_text())[-len(overrides()) :] == overrides()
