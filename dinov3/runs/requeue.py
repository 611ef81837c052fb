"""Another turn in the queue of SLURM for a job that has to stop and is not finished."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

from dinov3.runs.signals import Asked, StopRequest
from dinov3.system.errors import EXIT_PREEMPTED

log = logging.getLogger(__name__)
TIMEOUT = 60.0  # seconds for scontrol: its server may be busy
PATIENCE = 60.0  # seconds to try for, when nobody says how long there are
RESERVE = 10.0  # seconds of a notice that are left for ending
OTHERS_WAIT = 4.0  # seconds in which process 0 of a job asks and ends; SIGKILL comes after 30 by default
PAUSE = 2.0  # seconds between two tries
# What no second try changes, in scontrol's words. Everything else may be a server that is away for a minute.
FINAL = ("presently disabled", "invalid job id", "denied", "not permitted", "only batch jobs")
NOT_THERE = 127  # exit code of a shell for a command that does not exist
STAYS = "the same command continues"
# A signal to the job is not for the child that asks for its next turn: SLURM sends one as soon as it has been asked.
DEAF = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
DATED = re.compile(r"\d{4}-\d\d-\d\d")
# Ends of a job that nobody asked for. An earlier SLURM says COMPLETING and only the reason tells.
UNASKED = {"TIMEOUT", "TimeLimit", "PREEMPTED", "NODE_FAIL", "NodeDown", "BOOT_FAIL"}


@dataclass(frozen=True)
class Job:
    """What SLURM says about this job."""

    state: str
    reason: str
    preempted: bool  # it was told to leave, and has some time
    again: bool  # it already has another turn


def requeue(until: float | None = None) -> str:
    """Put this SLURM job back in its queue; what was done, as half a sentence. Only one process of a job calls it.

    Tries until the time ``until`` of ``time.monotonic``, and at least once. Elsewhere, and under submitit's local
    executor (which may itself run inside a SLURM job), the same command continues the run and whoever started it starts
    it again.
    """
    number = job_number()
    if number is None:
        return STAYS
    until = time.monotonic() + PATIENCE if until is None else until
    while True:
        done = _scontrol("requeue", number, until=until)
        if done.returncode in (0, -signal.SIGTERM):  # SLURM ends the processes of a job it has requeued
            return f"job {number} is back in the queue"
        problem = done.stderr.strip() or f"exit code {done.returncode}"
        final = any(word in problem.lower() for word in FINAL) or done.returncode == NOT_THERE
        if final or time.monotonic() + PAUSE >= until:
            break
        log.warning("scontrol requeue %s: %s: trying again", number, problem)
        time.sleep(PAUSE)
    job = look(number, until)
    if job is not None and job.again:
        return f"job {number} is back in the queue"
    log.warning("scontrol requeue %s: %s: submit the run again, it continues", number, problem)
    return STAYS


def next_turn(asked: Asked, until: float) -> str:
    """Give the job another turn unless a person ended it; what was done, as half a sentence.

    After SIGUSR2 that is clear. SIGTERM comes from ``scancel``, from preemption and from a node that is shut down or
    comes back, and only SLURM knows. ``until`` as in ``requeue``.
    """
    number = job_number()
    if number is None or asked <= Asked.A_PERSON:
        return STAYS
    if asked == Asked.ANOTHER_TURN:
        return requeue(until)
    job = look(number, until)
    while job is None and time.monotonic() + PAUSE < until:
        time.sleep(PAUSE)
        job = look(number, until)
    if job is None:
        log.warning("scontrol does not say who ended job %s: submit the run again, it continues", number)
        return STAYS
    if job.again:
        return f"job {number} is back in the queue"
    if job.state == "RUNNING":
        wanted = job.preempted or asked >= Asked.THE_SCHEDULER
    else:
        wanted = not UNASKED.isdisjoint((job.state, job.reason))
    return requeue(until) if wanted else STAYS


def look(number: str, until: float) -> Job | None:
    """What SLURM says about the job; None when it does not answer."""
    done = _scontrol("show", "job", "-o", number, until=until)
    facts = dict(re.findall(r"(\w+)=(\S*)", done.stdout))
    if done.returncode or "JobState" not in facts:
        return None
    turn = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    state = facts["JobState"]
    return Job(
        state=state,
        reason=facts.get("Reason", ""),
        preempted=DATED.match(facts.get("PreemptTime", "")) is not None,
        again=int(facts.get("Restarts", "0")) > turn or state in ("PENDING", "REQUEUED", "SPECIAL_EXIT"),
    )


def job_number() -> str | None:
    """The SLURM job that this process is a part of."""
    if os.environ.get("SUBMITIT_EXECUTOR") == "local":
        return None
    return os.environ.get("SLURM_JOB_ID") or None


def answer_before_training() -> None:
    """Until training has begun, in a SLURM job: SIGUSR2 and a SIGTERM that no person sent are answered by another turn.

    There is nothing to save yet. Process 0 asks and ends, and with it the job. A signal may have come to one machine
    only, and SIGKILL follows: so the first process of every other machine asks as well when that takes too long.
    """
    if job_number() is not None:
        StopRequest((signal.SIGTERM, signal.SIGUSR2, signal.SIGCONT), then=_leave)


def _leave(stop: StopRequest) -> None:
    if os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) != "0":
        return
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # this is the answer, to all of them
    first = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"
    time.sleep(0.1 if first else OTHERS_WAIT)  # SIGCONT may come after the SIGTERM it belongs to
    # Process 0 would have ended the job by now: it was not told, and a person tells all.
    asked = stop.asked if first else max(stop.asked, Asked.THE_SCHEDULER)
    what_next = next_turn(asked, time.monotonic() + PATIENCE)
    print(f"{stop.signal_name}: training has not begun, nothing is lost; {what_next}", flush=True)
    sys.exit(EXIT_PREEMPTED)


def _scontrol(*words: str, until: float) -> subprocess.CompletedProcess[str]:
    """Run scontrol; whatever happens becomes an exit code and a text."""
    timeout = min(TIMEOUT, max(5.0, until - time.monotonic()))
    command = ["scontrol", *words]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, DEAF)  # what is started keeps the mask
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout)
    except subprocess.TimeoutExpired as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))
    except OSError as error:
        return subprocess.CompletedProcess(command, NOT_THERE, "", str(error))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
