"""A process ends as ever, only sooner."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import atexit, gc, sys, threading, time
from dinov3.system.leaving import leave_quickly

class Ring:
    def __init__(self):
        self.self = self
    def __del__(self):
        print("searched for")

ring = Ring()
atexit.register(print, "said at the end")
{call}
{call}
threading.Thread(target=lambda: (time.sleep(0.2), print("waited for"))).start()
sys.exit(3)
"""


def ended(call: str) -> tuple[int, list[str]]:
    done = subprocess.run([sys.executable, "-c", CODE.format(call=call)], capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines()


def test_what_is_to_be_done_at_the_end_is_done_and_nothing_is_searched_for_rubbish() -> None:
    assert ended("") == (3, ["waited for", "said at the end", "searched for"])
    assert ended("leave_quickly()") == (3, ["waited for", "said at the end"])
