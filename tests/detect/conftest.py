"""A backbone that all tests of detection share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.detect import tiny


@pytest.fixture(scope="session")
def at(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Never written to."""
    return tiny.prepare(tmp_path_factory.mktemp("detect"))
