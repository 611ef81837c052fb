"""The table of what compression costs."""

from __future__ import annotations

from benchmarks.compression import table


def test_what_is_lost_is_against_the_own_run_and_a_higher_nll_is_a_loss() -> None:
    rows = [
        {"run": "a", "method": "none", "left": 1.0, "score": {"Acc": 0.9, "NLL": 0.3}},
        {"run": "b", "method": "none", "left": 1.0, "score": {"Acc": 0.8, "NLL": 0.4}},
        *[
            {
                "run": run,
                "method": "variance",
                "left": 0.5,
                "score": {"Acc": acc, "NLL": 0.6},
                "tuned": {"Acc": tuned, "NLL": 0.4},
            }
            for run, acc, tuned in (("a", 0.7, 0.85), ("b", 0.5, 0.75))
        ],
    ]
    lines = table(rows, ["Acc", "NLL"]).splitlines()
    assert lines[0] == "whole, 2 runs: Acc 0.8500 ± 0.0707, NLL 0.3500 ± 0.0707"
    assert (
        lines[2]
        == "| left | method | Acc lost, as it is | Acc lost, fine-tuned | NLL lost, as it is | NLL lost, fine-tuned |"
    )
    (line,) = (line for line in lines if "variance" in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["0.5", "variance", "+0.2500 ± 0.0707", "+0.0500 ± 0.0000", "+0.2500 ± 0.0707", "+0.0500 ± 0.0707"]
