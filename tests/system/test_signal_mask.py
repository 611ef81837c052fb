"""Each in an interpreter of its own: a fork server lives as long as the process that started it."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

SURVEY = """
from dinov3.data.sources import parse_dataset
from dinov3.survey.survey import survey

survey(parse_dataset("Synthetic:n=2:size=16"), workers=1)
"""
LOADER = """
from dinov3.config.load import load_config
from dinov3.data.slot_writer import SampleWriter
from dinov3.data.sources import parse_dataset
from dinov3.data.workers import WorkerPool

cfg = load_config(None, ["train.batch_size_per_gpu=2"])
WorkerPool(SampleWriter.from_config(cfg, parse_dataset("Synthetic:n=2:size=16"), 0, 1), 0, 1, 60).close()
"""


# Both start them through dinov3/system/signal_mask.py; those of the loader import torch.
OF_EACH_KIND = [SURVEY, pytest.param(LOADER, marks=pytest.mark.nightly)]


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("starts_processes", [SURVEY, LOADER])
def test_every_process_that_is_started_is_deaf_from_its_first_instruction(starts_processes: str) -> None:
    """To Ctrl-C of a terminal and to the signals that SLURM sends to every process of a job."""
    watch = """
import signal
from multiprocessing import util
from dinov3.system.signal_mask import ASKING

start = util.spawnv_passfds

def blocked():
    return sorted(n.name for n in ASKING & signal.pthread_sigmask(signal.SIG_BLOCK, []))

def told(*args):
    print(*blocked())
    return start(*args)

util.spawnv_passfds = told
"""
    done = run(f"{watch}{starts_processes}\nprint(*blocked())")
    all_of_them = "SIGHUP SIGINT SIGTERM SIGUSR1 SIGUSR2"
    assert done.stdout.splitlines() == [all_of_them, all_of_them, ""], done.stderr  # tracker, fork server; this process


@pytest.mark.parametrize("starts_processes", OF_EACH_KIND)
def test_no_process_dies_of_the_signal_before_the_time_limit(starts_processes: str) -> None:
    """The resource tracker did, once a turn, and said so in many lines."""
    watch = """
import os, signal, time
from multiprocessing import resource_tracker

def survives():
    pid = resource_tracker._resource_tracker._pid
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGTERM):
        os.kill(pid, number)
    time.sleep(0.2)
    return os.waitpid(pid, os.WNOHANG) == (0, 0)
"""
    done = run(f"{watch}{starts_processes}\nprint(survives())")
    assert done.stdout.split() == ["True"], done.stderr
    assert "KeyError" not in done.stderr


@pytest.mark.parametrize("starts_processes", OF_EACH_KIND)
def test_ctrl_c_while_a_process_starts_ends_this_one_and_says_nothing_about_the_other(starts_processes: str) -> None:
    interrupt = """
import os, signal, threading, time
from multiprocessing import context

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started deaf to it
start = context.ForkServerProcess.start

def interrupted(self):
    start(self)
    os.kill(os.getpid(), signal.SIGINT)  # the kernel hands it to a thread that does not block it
    time.sleep(0.1)

context.ForkServerProcess.start = interrupted
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
"""
    ends = "except KeyboardInterrupt:\n    print('interrupted')\n"
    done = run(f"{interrupt}\ntry:\n{textwrap.indent(starts_processes, '    ')}{ends}")
    assert done.stdout == "interrupted\n", done.stderr
    assert "Traceback" not in done.stderr
