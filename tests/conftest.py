from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from dinov3.data import feed
from tests.faults.runs import Launcher, launcher

ROOT = Path(__file__).resolve().parent

# No test is wrong because the machine was busy: an example may take as long as it takes.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


# Files that take longest, first: short ones behind them let all cores end together (`make test`).
LONGEST = (
    *("faults/test_launchers.py", "distributed/test_parallel_training.py", "faults/test_kills.py"),
    *("faults/test_students.py", "test_environments.py", "train/test_run.py", "train/test_stages.py"),
    *("faults/test_async_saves.py", "segment/test_job.py", "plan/test_step.py", "test_readme.py"),
    *("generate/training/test_run.py", "finetune/test_job.py", "system/test_console.py", "train/test_da3.py"),
    *("faults/test_endings.py", "train/test_adapters.py", "train/test_accumulation.py", "compress/test_methods.py"),
    *("faults/test_non_finite.py", "faults/test_disk.py", "faults/test_stages.py", "data/test_workers.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {ROOT / name: place for place, name in enumerate(LONGEST)}
    assert all(path.is_file() for path in places), "LONGEST names a file that is gone"
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """What starts runs: one for all files, for it imports everything that runs need."""
    with launcher(tmp_path_factory.mktemp("data") / "images") as server:
        yield server


@pytest.fixture
def one_thread() -> Iterator[None]:
    """With another number the last bits differ, and with them a neighbour that KoLeo takes."""
    with feed.one_thread():
        yield
