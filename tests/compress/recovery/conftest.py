from __future__ import annotations

from pathlib import Path

import pytest

from tests.compress.recovery.tiny import prepare


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model and a cut one."""
    return prepare(tmp_path_factory.mktemp("pair"))
