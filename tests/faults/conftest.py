from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.runs import Launcher

Reference = Callable[[int], Path]


@pytest.fixture(scope="session")
def reference(runs: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """An uninterrupted run of so many processes."""
    made: dict[int, Path] = {}

    def get(ranks: int) -> Path:
        if ranks not in made:
            out = tmp_path_factory.mktemp(f"reference{ranks}") / "run"
            assert runs.run(out, ranks=ranks) == [0] * ranks
            made[ranks] = out
        return made[ranks]

    return get
