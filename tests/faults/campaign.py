"""``python -m tests.faults.campaign --trials 50``: runs killed at random moments, every loss compared bit for bit."""

from __future__ import annotations

import argparse
import random
import signal
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

from tests.faults.runs import Launcher, assert_same, history, launcher

KILLS = 3


def trial(runs: Launcher, out: Path, reference: Path, seed: int, *, ranks: int = 1) -> int:
    """One run, killed ``KILLS`` times; AssertionError unless it equals ``reference``. Returns the losses compared.

    A kill comes a random time after the start, over the whole life of a run: imports done, model built, in a step, in a
    save, in the last lines. One that would come after the end comes earlier next time.
    """
    dice, longest = random.Random(seed), 1.2 + 0.8 * (ranks - 1)
    kills = 0
    while kills < KILLS:
        job = runs.start(out, ranks=ranks)
        time.sleep(dice.uniform(0.05, longest))
        victims = job.pids if dice.random() < 0.5 else [dice.choice(job.pids)]
        for pid in victims:
            job.launcher.kill(pid, signal.SIGKILL)
        codes = job.wait()
        assert set(codes) <= {0, -signal.SIGKILL}, (codes, job.text()[-3000:])
        if -signal.SIGKILL in codes:
            kills += 1
        else:  # it had finished before: a new run
            assert_same(out, reference)
            out, longest = out.with_name(f"{out.name}-again"), longest * 0.8
    assert runs.run(out, ranks=ranks) == [0] * ranks
    assert_same(out, reference)
    return len(history(out))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    losses = 0
    with tempfile.TemporaryDirectory() as folder, launcher(Path(folder) / "images") as runs:
        reference = Path(folder) / "reference"
        assert runs.run(reference, ranks=args.ranks) == [0] * args.ranks
        for number in tqdm(range(args.trials), unit="trial"):
            seed = args.seed * 10_000 + number
            losses += trial(runs, Path(folder) / f"trial-{number}" / "run", reference, seed, ranks=args.ranks)
    print(
        f"{args.trials} of {args.trials} trials, {args.trials * KILLS} kills, {losses} losses: "
        "all bit-identical to the uninterrupted run"
    )


if __name__ == "__main__":
    main()
