"""The table of what compression costs."""

from __future__ import annotations

from benchmarks.compression import table


def test_what_is_lost_is_against_the_own_run_and_over_runs() -> None:
    rows = [
        {"run": "a", "method": "none", "left": 1.0, "score": 0.9},
        {"run": "b", "method": "none", "left": 1.0, "score": 0.8},
        {"run": "a", "method": "variance", "left": 0.5, "score": 0.7, "tuned": 0.85},
        {"run": "b", "method": "variance", "left": 0.5, "score": 0.5, "tuned": 0.75},
    ]
    lines = table(rows, "Acc").splitlines()
    assert lines[0] == "Acc of 2 runs: 0.8500 ± 0.0707"
    line = next(line for line in lines if "variance" in line)
    assert " ".join(line.split()) == "0.5 left variance lost, score: +0.2500 ± 0.0707; tuned: +0.0500 ± 0.0000"
