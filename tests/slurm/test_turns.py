"""Runs of several turns on a real SLURM: every loss is that of a run that nothing interrupted."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.two_nodes import KEYS, NODES, TwoNodes, arguments, log, rows, wait_for, wait_for_step

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]
Rows = list[dict[str, Any]]


def test_the_time_limit_is_a_save_and_another_turn(slurm: TwoNodes, whole: Rows, out: Path) -> None:
    notice = 58
    job = slurm.submit(out, keys=(f"checkpointing.preemption_notice={notice}",))
    wait_for_step(out, 6)
    slurm.signal(
        "STOP"
    )  # SLURM counts minutes and looks twice in one: however fast the machine is, the run is not over
    limit = (slurm.seconds_run(job) + notice) // 60 + 1
    slurm.inside("scontrol", "update", f"JobId={job}", f"TimeLimit={limit}")

    def turned() -> bool:
        return slurm.show(job)["Restarts"] != "0"

    # some versions wake what they signal
    wait_for(lambda: turned() or all(slurm.has_for(node, signal.SIGUSR2) for node in NODES), "SIGUSR2 on both machines")
    slurm.signal("CONT")
    wait_for(turned, "another turn")
    slurm.inside("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    slurm.wait(job, out, "COMPLETED")
    assert "SIGUSR2: saved at step" in log(out, job)
    assert f"job {job} is back in the queue" in log(out, job)
    assert rows(out) == whole


@pytest.mark.parametrize("launcher", ["srun", "torchrun"])
def test_preemption_with_grace_is_a_save_and_another_turn(
    launcher: str, slurm: TwoNodes, whole: Rows, out: Path
) -> None:
    job = slurm.submit(out, "--partition", "low", "--launcher", launcher)
    wait_for_step(out, 10)
    slurm.urgent()
    facts = slurm.wait(job, out, "COMPLETED")
    assert facts["Restarts"] == "1", log(out, job)
    assert f"SIGTERM: saved at step {next_step(out, job)}; job {job} is back in the queue" in log(out, job)
    assert rows(out) == whole


def next_step(out: Path, job: str) -> int:
    """Where the last turn of a job began."""
    return int(log(out, job).rpartition("resumed    at step ")[2].split()[0].replace(",", "").rstrip(":;."))


def test_preemption_without_grace_loses_no_step_and_no_turn(slurm: TwoNodes, whole: Rows, out: Path) -> None:
    job = slurm.submit(out, "--partition", "now")
    wait_for_step(out, 10)
    slurm.urgent()
    facts = slurm.wait(job, out, "COMPLETED")
    assert facts["Restarts"] == "1", log(out, job)
    assert f"job {job} is back in the queue" in log(out, job), "SLURM has requeued it: nobody needs to send it again"
    assert rows(out) == whole


def test_a_power_cut_of_a_machine_costs_the_steps_since_the_last_save(slurm: TwoNodes, whole: Rows, out: Path) -> None:
    job = slurm.submit(out)
    wait_for_step(out, 11)
    slurm.cluster("cut", "node2")
    wait_for(lambda: slurm.show(job)["JobState"] != "RUNNING", "that SLURM notices")
    slurm.cluster("power", "node2")
    if slurm.show(job)["Restarts"] == "0":  # the other machine lost its partner before SLURM lost a machine
        slurm.inside("scontrol", "requeue", job)
    slurm.wait(job, out, "COMPLETED")
    assert rows(out) == whole


def test_signals_that_only_one_machine_gets_do_not_end_a_run(slurm: TwoNodes, whole: Rows, out: Path) -> None:
    """SLURM sends SIGCONT and SIGTERM to what it takes for an earlier turn when a machine comes back late."""
    job = slurm.submit(out)
    wait_for_step(out, 10)
    for pid in slurm.processes("node2"):
        slurm.inside("kill", "-CONT", pid, check=False)
        slurm.inside("kill", "-TERM", pid, check=False)
    facts = slurm.wait(job, out, "COMPLETED")
    assert facts["Restarts"] == "1", log(out, job)
    assert rows(out) == whole


def test_a_controller_that_is_away_is_waited_for(slurm: TwoNodes, whole: Rows, out: Path) -> None:
    job = slurm.submit(out)
    wait_for_step(out, 10)
    slurm.inside("sh", "-c", f"kill -9 $(cat {slurm.folder}/slurmctld.pid)")
    try:
        slurm.signal("USR2")
        wait_for(lambda: "trying again" in log(out, job), "a failed try")
        time.sleep(15)
    finally:
        slurm.inside("slurmctld")
    facts = slurm.wait(job, out, "COMPLETED")
    assert facts["Restarts"] == "1", log(out, job)
    assert rows(out) == whole


@pytest.mark.parametrize("how", [[], ["--signal=TERM"]])
def test_scancel_saves_and_ends(how: list[str], slurm: TwoNodes, whole: Rows, out: Path) -> None:
    job = slurm.submit(out)
    wait_for_step(out, 10)
    slurm.inside("scancel", *how, job)
    facts = slurm.wait(job, out, "FAILED" if how else "CANCELLED")
    assert facts["Restarts"] == "0"
    wait_for(lambda: "the same command continues" in log(out, job), f"a save in {log(out, job)}")
    reached = len(rows(out))
    assert 10 <= reached < len(whole)
    assert rows(out) == whole[:reached]
    assert (out / "ckpt" / f"step-{reached:08d}").is_dir()


def test_a_signal_that_also_ends_srun_costs_at_most_the_steps_since_the_last_save(
    slurm: TwoNodes, whole: Rows, out: Path
) -> None:
    """srun answers SIGTERM by killing its step at once: whether the save was faster is chance."""
    job = slurm.submit(out)
    wait_for_step(out, 10)
    slurm.inside("scancel", "--signal=TERM", "--full", job)
    assert slurm.wait(job, out, "FAILED")["Restarts"] == "0"
    slurm.wait(slurm.submit(out), out, "COMPLETED")
    assert rows(out) == whole


def test_scancel_with_usr2_is_another_turn(slurm: TwoNodes, whole: Rows, out: Path) -> None:
    job = slurm.submit(out)
    wait_for_step(out, 10)
    slurm.inside("scancel", "--signal=USR2", job)
    assert slurm.wait(job, out, "COMPLETED")["Restarts"] == "1", log(out, job)
    assert rows(out) == whole
    errors = "".join(file.read_text() for file in (out / "slurm").glob(f"{job}_*.err"))
    assert "Traceback" not in errors, errors[-3000:]
    assert "SIGCONT" not in errors, errors[-3000:]


def test_usr2_before_training_has_begun_is_another_turn(slurm: TwoNodes, whole: Rows, out: Path) -> None:
    job = slurm.submit(out)
    wait_for(lambda: len(slurm.processes("node1")) + len(slurm.processes("node2")) >= 2, "the start")
    time.sleep(0.5)
    slurm.inside("scancel", "--signal=USR2", job)
    assert slurm.wait(job, out, "COMPLETED")["Restarts"] == "1", log(out, job)
    assert rows(out) == whole


def test_a_script_of_a_dry_run_can_be_sent_by_hand(slurm: TwoNodes, whole: Rows, out: Path, tmp_path: Path) -> None:
    script = tmp_path / "by_hand.sh"
    script.write_text(slurm.dinov3("submit", *arguments(out), "--dry-run", *KEYS).stdout)
    assert not out.exists()
    job = slurm.inside("sbatch", "--parsable", str(script), cwd=Path("/")).stdout.strip()
    slurm.wait(job, out, "COMPLETED")
    assert rows(out) == whole


def test_gpus_that_torch_does_not_see_do_not_burn(slurm: TwoNodes, out: Path) -> None:
    job = slurm.submit(out, "--gpus-per-node", "2", "--nodes", "1", keys=("train.device=auto",))
    slurm.wait(job, out, "FAILED")
    assert "torch sees no GPU although CUDA_VISIBLE_DEVICES=0,1" in log(out, job)
    assert slurm.show(job)["ExitCode"] == "78:0"


def test_a_job_that_would_wait_for_ever_is_not_sent(slurm: TwoNodes, out: Path) -> None:
    done: subprocess.CompletedProcess[str] = slurm.dinov3(
        "submit", *arguments(out), "--partition", "short", *KEYS, check=False
    )
    assert done.returncode == 78
    assert "--time: 1:00:00 is 1 h, but the partition allows less (short at most 5 min)" in done.stderr
    assert not out.exists()


HOSTILE = """-a'b "c" $(touch pwned) `touch pwned` %j %% #d ; & | é ü 猫 {} * ~"""


def test_hostile_names_are_only_names(slurm: TwoNodes, tmp_path: Path) -> None:
    """``echo`` stands for Python: SLURM's own reading of the script, without a run."""
    out = tmp_path / HOSTILE
    argv = [*arguments(out), "--python", "echo", "--job-name", HOSTILE, *KEYS]
    job = slurm.submit(out, "--python", "echo", "--job-name", HOSTILE)
    slurm.wait(job, out, "COMPLETED")
    name = slurm.inside("squeue", "-h", "-t", "all", "-j", job, "-o", "%j").stdout.rstrip("\n")
    assert name == HOSTILE
    for task in (0, 1):
        said = (out / "slurm" / f"{job}_{task}_log.out").read_text()
        assert f"--output-dir {out} train.dataset_path=Synthetic:size=64" in said
    assert (out / "slurm" / f"{job}_job.out").exists()
    by_hand = tmp_path / "by_hand.sh"
    by_hand.write_text(slurm.dinov3("submit", *argv, "--dry-run").stdout)
    other = slurm.inside("sbatch", "--parsable", str(by_hand)).stdout.strip()
    slurm.wait(other, out, "COMPLETED")
    assert (out / "slurm" / f"{other}_1_log.out").exists()
    assert not [path for path in (Path("/pwned"), Path.cwd() / "pwned") if path.exists()]
