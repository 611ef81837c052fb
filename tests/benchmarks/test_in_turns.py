from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from benchmarks.in_turns import OtherFailed, figures_of, in_turns


def printing(log: Path, name: str, *seconds: float, peak: float | None = None) -> list[str]:
    """A program that notes its turn and prints the next of these figures."""
    code = (
        f"import json, pathlib; log = pathlib.Path({str(log)!r}); turn = log.read_text().count({name!r}) if log.exists() else 0; "
        f"log.open('a').write({name!r}); print('a line of text'); "
        f"print(json.dumps({{'seconds_per_step': {list(seconds)}[turn], 'peak_gib': {peak}}}))"
    )
    return [sys.executable, "-c", code]


def test_two_programs_take_turns_and_their_medians_are_compared(tmp_path: Path) -> None:
    log = tmp_path / "turns"
    ours, theirs = printing(log, "A", 1.0, 9.0, 2.0, peak=3.0), printing(log, "B", 3.0, 3.0, 100.0, peak=4.0)
    found = in_turns(ours, shlex.join(theirs), rounds=3)
    assert log.read_text() == "ABABAB"
    assert found["median_seconds"] == {"ours": 2.0, "other": 3.0}
    assert found["ratio_of_medians"] == 1.5
    assert found["peak_share_of_other"] == 0.75


def test_a_program_that_says_no_peak_is_compared_by_its_time_alone(tmp_path: Path) -> None:
    ours, theirs = printing(tmp_path / "a", "A", 1.0), printing(tmp_path / "b", "B", 2.0)
    found = in_turns(ours, shlex.join(theirs), rounds=1)
    assert found["ratio_of_medians"] == 2.0
    assert "peak_share_of_other" not in found


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise SystemExit('no such arch')", "exit code 1.*no such arch"),
        ("print('done')", "no JSON line"),
        (f"print({json.dumps({'seconds': 1})!r})", "no JSON line"),
        ("print(3)", "no JSON line"),
    ],
)
def test_a_program_without_a_figure_is_named_with_what_it_said(code: str, said: str) -> None:
    with pytest.raises(OtherFailed, match=said):
        figures_of([sys.executable, "-c", code])


def test_a_program_that_does_not_exist_is_named() -> None:
    with pytest.raises(OtherFailed, match="no-such-program"):
        figures_of(["no-such-program"])
