from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dinov3.runs import requeue as module
from dinov3.runs.requeue import STAYS, next_turn, requeue
from dinov3.runs.signals import Asked

BACK = "job 4242 is back in the queue"
# As scontrol of SLURM 22.05 prints it, shortened.
RUNNING = "JobId=4242 JobName=run JobState=RUNNING Reason=None Requeue=1 Restarts=0 ExitCode=0:0 PreemptTime=None"
PREEMPTED = RUNNING.replace("PreemptTime=None", "PreemptTime=2026-11-27T08:40:35")
CANCELLED = RUNNING.replace("RUNNING", "COMPLETING").replace("ExitCode=0:0", "ExitCode=0:15")
AT_THE_LIMIT = CANCELLED.replace("Reason=None", "Reason=TimeLimit")
REQUEUED = RUNNING.replace("RUNNING", "COMPLETING").replace("Restarts=0", "Restarts=1")


class Scontrol:
    """A stub on PATH that writes down how it was called."""

    def __init__(self, folder: Path) -> None:
        self.path, self.calls = folder / "scontrol", folder / "calls"
        self.says("")

    def says(self, about_the_job: str, *, requeue: str = "exit 0") -> None:
        show = f"echo '{about_the_job}'" if about_the_job else "echo no answer >&2; exit 1"
        self.does(f'[ "$1" = show ] && {{ {show}; exit; }}\n{requeue}')

    def does(self, script: str) -> None:
        self.path.write_text(f'#!/bin/sh\necho "$@" >> {self.calls}\n{script}\n')
        self.path.chmod(0o755)

    def asked(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scontrol:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_JOB_ID", "4242")
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    monkeypatch.setattr(module, "PAUSE", 0.05)
    return Scontrol(tmp_path)


def soon() -> float:
    return time.monotonic() + 0.3


def test_a_slurm_job_goes_back_into_the_queue(scontrol: Scontrol) -> None:
    assert requeue() == BACK
    assert scontrol.asked() == ["requeue 4242"]


@pytest.mark.parametrize(("name", "value"), [("SLURM_JOB_ID", ""), ("SUBMITIT_EXECUTOR", "local")])
@pytest.mark.parametrize("asked", Asked)
def test_what_is_no_job_of_slurm_is_left_alone(
    scontrol: Scontrol, name: str, value: str, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert next_turn(asked, soon()) == STAYS
    assert requeue() == STAYS
    assert scontrol.asked() == []


@pytest.mark.parametrize(
    "words",
    [
        "Requested operation is presently disabled",
        "Only batch jobs are accepted or processed",
        "Access/permission denied",
        "Invalid job id specified",
    ],
)
def test_a_refusal_is_told_with_its_reason_and_not_tried_again(
    scontrol: Scontrol, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    scontrol.says("", requeue=f"echo {words} >&2; exit 1")
    assert requeue() == STAYS
    assert caplog.messages == [f"scontrol requeue 4242: {words}: submit the run again, it continues"]
    assert scontrol.asked().count("requeue 4242") == 1


def test_no_scontrol_is_told(
    tmp_path: Path, scontrol: Scontrol, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scontrol.path.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))  # without that of a machine on which SLURM is installed
    assert requeue() == STAYS
    assert "scontrol" in caplog.text


def test_a_controller_that_is_away_is_asked_until_it_answers(scontrol: Scontrol) -> None:
    away = "echo 'Unable to contact slurm controller (connect failure)' >&2; exit 1"
    scontrol.does(f"[ $(wc -l < {scontrol.calls}) -ge 4 ] || {{ {away}; }}")
    assert requeue(time.monotonic() + 60) == BACK
    assert scontrol.asked() == ["requeue 4242"] * 4


def test_a_controller_that_stays_away_is_given_up_when_the_notice_is_spent(
    scontrol: Scontrol, caplog: pytest.LogCaptureFixture
) -> None:
    scontrol.does("echo 'Unable to contact slurm controller' >&2; exit 1")
    began = time.monotonic()
    assert requeue(began + 1) == STAYS
    assert time.monotonic() - began > 0.5
    assert scontrol.asked().count("requeue 4242") > 2
    assert caplog.messages[-1].endswith("submit the run again, it continues")


def test_a_notice_that_is_already_spent_is_still_one_try(scontrol: Scontrol) -> None:
    assert requeue(time.monotonic() - 100) == BACK


def test_the_signal_that_follows_a_requeue_does_not_reach_the_child_that_asked(scontrol: Scontrol) -> None:
    scontrol.does("kill -TERM $$; kill -USR2 $$; echo alive >> " + str(scontrol.calls))
    assert requeue() == BACK
    assert scontrol.asked() == ["requeue 4242", "alive"]


def test_a_child_that_a_signal_killed_has_asked(scontrol: Scontrol) -> None:
    scontrol.path.write_text(
        f"#!{sys.executable}\nimport os, signal\nsignal.pthread_sigmask(signal.SIG_UNBLOCK, {{signal.SIGTERM}})\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    assert requeue() == BACK


def test_asking_leaves_the_signals_of_this_process_as_they_were(scontrol: Scontrol) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    requeue()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


@pytest.mark.parametrize(
    ("asked", "job", "again"),
    [
        (Asked.A_PERSON, PREEMPTED, False),  # Ctrl-C is a person, whatever SLURM plans
        (Asked.SIGTERM, RUNNING, False),  # scancel --signal=TERM
        (Asked.SIGTERM, PREEMPTED, True),
        (Asked.THE_SCHEDULER, PREEMPTED, True),
        (Asked.THE_SCHEDULER, RUNNING, True),  # meant for an earlier turn, or the machine is shut down
        (Asked.THE_SCHEDULER, CANCELLED, False),  # scancel
        (Asked.THE_SCHEDULER, AT_THE_LIMIT, True),  # --signal was taken out of the script
        (Asked.ANOTHER_TURN, RUNNING, True),
        (Asked.ANOTHER_TURN_THEN_SIGTERM, AT_THE_LIMIT, True),
        (Asked.ANOTHER_TURN_THEN_SIGTERM, CANCELLED, False),  # a person did not wait for the save
    ],
)
def test_only_a_person_ends_a_run(scontrol: Scontrol, asked: Asked, job: str, again: bool) -> None:
    scontrol.says(job)
    assert next_turn(asked, soon()) == (BACK if again else STAYS)
    assert scontrol.asked().count("requeue 4242") == again


@pytest.mark.parametrize("asked", [Asked.SIGTERM, Asked.THE_SCHEDULER])
def test_a_job_that_slurm_has_requeued_is_said_to_be_in_the_queue(scontrol: Scontrol, asked: Asked) -> None:
    scontrol.says(REQUEUED)
    assert next_turn(asked, soon()) == BACK
    assert scontrol.asked() == ["show job -o 4242"]


def test_a_later_turn_counts_from_its_own_number(scontrol: Scontrol, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    scontrol.says(REQUEUED)  # this turn is the one after the first restart, and it was cancelled
    assert next_turn(Asked.THE_SCHEDULER, soon()) == STAYS


def test_usr2_of_a_job_that_slurm_has_requeued_meanwhile_is_no_failure(scontrol: Scontrol) -> None:
    scontrol.says(REQUEUED, requeue="echo Requested operation is presently disabled >&2; exit 1")
    assert next_turn(Asked.ANOTHER_TURN, soon()) == BACK


def test_a_controller_that_does_not_say_is_told(scontrol: Scontrol, caplog: pytest.LogCaptureFixture) -> None:
    assert next_turn(Asked.SIGTERM, soon()) == STAYS
    assert "submit the run again" in caplog.text
    assert len(scontrol.asked()) > 1


START = """
import os, signal, time
from dinov3.runs.requeue import answer_before_training
answer_before_training()
print("ready", flush=True)
{sending}
time.sleep({wait})
print("not ended", flush=True)
"""


def start_up(scontrol: Scontrol, sending: str, wait: float = 20, **env: str) -> subprocess.CompletedProcess[str]:
    script = START.format(sending=sending, wait=wait)
    return subprocess.run(
        [sys.executable, "-c", script], env=os.environ | env, capture_output=True, text=True, timeout=60
    )


def test_usr2_before_training_gives_the_job_another_turn(scontrol: Scontrol) -> None:
    done = start_up(scontrol, "os.kill(os.getpid(), signal.SIGUSR2)")
    assert (done.returncode, done.stderr) == (85, "")
    assert done.stdout.splitlines()[1:] == [f"SIGUSR2: training has not begun, nothing is lost; {BACK}"]
    assert scontrol.asked() == ["requeue 4242"]


def test_a_preemption_before_training_gives_the_job_another_turn_and_a_scancel_does_not(scontrol: Scontrol) -> None:
    both = "os.kill(os.getpid(), signal.SIGCONT); os.kill(os.getpid(), signal.SIGTERM)"
    scontrol.says(PREEMPTED)
    assert BACK in start_up(scontrol, both).stdout
    scontrol.says(CANCELLED)
    done = start_up(scontrol, both)
    assert done.returncode == 85
    assert STAYS in done.stdout


def test_before_training_the_others_of_a_machine_wait_for_its_first_process(scontrol: Scontrol) -> None:
    done = start_up(scontrol, "os.kill(os.getpid(), signal.SIGUSR2)", wait=0.2, RANK="3", LOCAL_RANK="1")
    assert "not ended" in done.stdout
    assert scontrol.asked() == []


def test_before_training_a_machine_that_alone_was_signalled_asks_for_all(scontrol: Scontrol) -> None:
    """What SLURM sends to a machine that comes back, for an earlier turn: SIGKILL follows, and would end the job."""
    scontrol.says(RUNNING)
    done = start_up(scontrol, "os.kill(os.getpid(), signal.SIGTERM)", RANK="8", LOCAL_RANK="0")
    assert (done.returncode, BACK in done.stdout) == (85, True)
    assert scontrol.asked() == ["show job -o 4242", "requeue 4242"]


def test_outside_of_slurm_signals_before_training_end_the_process(scontrol: Scontrol) -> None:
    assert start_up(scontrol, "os.kill(os.getpid(), signal.SIGTERM)", SLURM_JOB_ID="").returncode == -signal.SIGTERM
