"""A run of three stages killed in its second, at every kind of moment: final weights are those of a run left alone."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.runs import Launcher, assert_same, files
from tests.train.three_stages import FOLDERS, write

Reference = Callable[[int], tuple[Path, Path]]


@pytest.fixture(scope="module")
def staged(runs: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """The YAML for so many processes, and a run of it that nobody disturbed."""
    made: dict[int, tuple[Path, Path]] = {}

    def get(ranks: int) -> tuple[Path, Path]:
        if ranks not in made:
            folder = tmp_path_factory.mktemp(f"staged{ranks}")
            changes: dict[str, object] = {"train__dataset_path": str(runs.images)}
            changes |= {"train__batch_size_per_gpu": 8 // ranks, "checkpointing__max_to_keep": 1}
            file = write(folder / "three.yaml", **changes)
            assert runs.run(folder / "run", file=file, ranks=ranks) == [0] * ranks
            made[ranks] = file, folder / "run"
        return made[ranks]

    return get


def continue_and_compare(runs: Launcher, file: Path, out: Path, reference: Path, ranks: int = 1) -> None:
    assert runs.run(out, file=file, ranks=ranks) == [0] * ranks
    for folder in FOLDERS:
        assert_same(out / folder, reference / folder)
    assert (out / "stages.json").read_text() == (reference / "stages.json").read_text()


# The second stage alone has more than 4 steps; both have a checkpoint at step 3.
@pytest.mark.parametrize(
    "fault",
    ["step@6", "committed@4", *(pytest.param(fault, marks=pytest.mark.nightly) for fault in ("rename@8", "prune@8"))],
)
def test_a_run_killed_in_its_second_stage_ends_with_the_same_weights(
    runs: Launcher, staged: Reference, tmp_path: Path, fault: str
) -> None:
    file, reference = staged(1)
    out = tmp_path / "run"
    assert runs.run(out, file=file, fault=fault) == [-signal.SIGKILL]
    assert (out / FOLDERS[1]).exists() == (fault != "committed@4"), "that is the end of the first stage"
    assert not (out / FOLDERS[2]).exists()
    continue_and_compare(runs, file, out, reference)


def test_a_run_killed_at_the_end_of_its_last_stage_is_tidied_and_then_left_alone(
    runs: Launcher, staged: Reference, tmp_path: Path
) -> None:
    file, reference = staged(1)
    out = tmp_path / "run"
    assert runs.run(out, "stages=[pretrain, gram]", file=file) == [0]
    assert runs.run(out, file=file, fault="prune@4") == [-signal.SIGKILL]
    continue_and_compare(runs, file, out, reference)
    before = files(out)
    assert runs.run(out, file=file) == [0]
    assert files(out) == before


@pytest.mark.nightly
def test_two_processes_change_stages_together_and_one_of_them_may_be_killed(
    runs: Launcher, staged: Reference, tmp_path: Path
) -> None:
    file, reference = staged(2)
    out = tmp_path / "run"
    assert -signal.SIGKILL in runs.run(out, file=file, fault="step@6:1", ranks=2)
    continue_and_compare(runs, file, out, reference, ranks=2)
