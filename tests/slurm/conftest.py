from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.two_nodes import STEPS, TwoNodes, rows, wait_for, why_not


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    """A cluster of two machines."""
    if reason := why_not():
        pytest.skip(reason)
    cluster = TwoNodes(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.cluster("up")
    except RuntimeError as error:
        pytest.skip(f"no cluster in namespaces here: {error}")
    yield cluster
    cluster.cluster("down")


@pytest.fixture(scope="session")
def whole(slurm: TwoNodes, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The steps of a run on both machines that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    slurm.wait(slurm.submit(out), out, "COMPLETED")
    found = rows(out)
    assert [row["iteration"] for row in found] == list(range(STEPS))
    return found


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A run folder that does not exist yet."""
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def no_job_is_left(slurm: TwoNodes) -> Iterator[None]:
    """A test that fails does not slow down the next."""
    yield
    slurm.inside("scancel", "--signal=KILL", "--full", "--user=root", check=False)
    slurm.inside("scancel", "--user=root", check=False)
    wait_for(lambda: not slurm.inside("squeue", "-h").stdout, "the end of all jobs")
