"""``python -m tests.faults.campaign --trials 50``: runs killed at random moments, every loss compared bit for bit."""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm

from tests.faults.runs import Launcher, assert_same, history, launcher

KILLS = 3


def trial(runs: Launcher, out: Path, reference: Path, seed: int, *, ranks: int = 1, **changes: Any) -> int:
    """One run, killed ``KILLS`` times; AssertionError unless it equals ``reference``. Returns the losses compared.

    A kill comes a random time after the start, anywhere in the time that a whole run takes: while the model is built, in
    a step, in a save, in the last lines. When the run was quicker, another one is begun.
    """
    dice, longest = random.Random(seed), runs.seconds[ranks]
    kills = 0
    while kills < KILLS:
        began = time.monotonic()
        job = runs.start(out, ranks=ranks, **changes)
        time.sleep(dice.uniform(0.1, 1.0) * longest)
        victims = job.pids if dice.random() < 0.5 else [dice.choice(job.pids)]
        for pid in victims:
            job.launcher.kill(pid, signal.SIGKILL)
        codes = job.wait()
        assert set(codes) <= {0, -signal.SIGKILL}, (codes, job.text()[-3000:])
        if -signal.SIGKILL in codes:
            kills += 1
        else:  # it had finished before: a new run
            assert_same(out, reference)
            out, longest = out.with_name(f"{out.name}-again"), min(longest, time.monotonic() - began)
    assert runs.run(out, ranks=ranks, **changes) == [0] * ranks
    assert_same(out, reference)
    return len(history(out))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="trials at a time")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.jobs) as pool:
        numbers = [range(first, args.trials, args.jobs) for first in range(args.jobs)]
        bar = tqdm(total=args.trials, unit="trial")
        done = [pool.submit(some_trials, Path(folder) / str(n[0]), n, args.seed, args.ranks, bar) for n in numbers if n]
        losses = sum(d.result() for d in done)
        bar.close()
    print(
        f"{args.trials} of {args.trials} trials, {args.trials * KILLS} kills, {losses} losses: "
        "all bit-identical to the uninterrupted run"
    )


def some_trials(folder: Path, numbers: Sequence[int], seed: int, ranks: int, bar: tqdm[NoReturn]) -> int:
    """Trials one after the other, beside a reference of their own; losses compared."""
    losses = 0
    with launcher(folder / "images") as runs:
        reference = folder / "reference"
        assert runs.run(reference, ranks=ranks) == [0] * ranks
        for number in numbers:
            out = folder / f"trial-{number}" / "run"
            losses += trial(runs, out, reference, 10_000 * seed + number, ranks=ranks)
            shutil.rmtree(out.parent)
            bar.update()
    return losses


if __name__ == "__main__":
    main()
