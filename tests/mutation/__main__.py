"""``python -m tests.mutation [WORD ...]``: ends with 1 and a list when a change survives."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

# Once, here: every change has a process of its own, forked from this one.
import hypothesis  # noqa: F401
import omegaconf  # noqa: F401
import PIL.Image  # noqa: F401
import pytest
import torch
import torch.distributed.checkpoint
import torch.distributed.fsdp
import torch.distributed.tensor
import torch.multiprocessing

from tests.mutation.changes import CHANGES, ROOT, Change

COPIED = ("dinov3", "tests", "configs", "pyproject.toml")
NOTICED = pytest.ExitCode.TESTS_FAILED


def copy_tree(to: Path) -> None:
    """What the tests need, without compiled code, which would outlive a change."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, to / name)


def run_tests(tree: Path, tests: Iterable[str]) -> int:
    """pytest's exit code, in a process of its own whose program is the copy."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 99
    try:
        for name in [name for name in sys.modules if name.partition(".")[0] in ("dinov3", "tests")]:
            del sys.modules[name]
        sys.path[:] = [str(tree), *(p for p in sys.path if p not in ("", str(ROOT)))]
        os.environ["PYTHONPATH"] = str(tree)
        sys.dont_write_bytecode = True
        os.chdir(tree)
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *(f"tests/{test}" for test in tests)]))
    finally:
        os._exit(code)


def survives(tree: Path, change: Change) -> str | None:
    """None when a test notices ``change`` in the copy ``tree``, which is as before afterwards; else what happened."""
    path = change.place(tree)
    text = path.read_text()
    try:
        path.write_text(text.replace(change.old, change.new))
        code = run_tests(tree, change.tests.split())
    finally:
        path.write_text(text)
    if code == NOTICED:
        return None
    return "survived" if code == 0 else f"its tests could not be run: pytest ended with {code}"


def main(words: list[str]) -> int:
    """Apply every change, or those that have one of ``words`` in their text."""
    torch.set_num_threads(1)
    chosen = [change for change in CHANGES if not words or any(word in change.title for word in words)]
    problems = []
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        copy_tree(tree)
        named = sorted({test for change in chosen for test in change.tests.split()})
        if (code := run_tests(tree, named)) != 0:
            print(f"the tests fail without any change: pytest ended with {code}")
            return 1
        for number, change in enumerate(chosen, start=1):
            began = time.monotonic()
            outcome = survives(tree, change)
            print(
                f"{number}/{len(chosen)} {outcome or 'noticed'} ({time.monotonic() - began:.0f} s)  {change.title}",
                flush=True,
            )
            if outcome:
                problems.append(f"{outcome}: {change.title}")
    print("\n".join([f"{len(chosen)} changes, {len(problems)} not noticed", *problems]))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
