from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from dinov3.data import feed

# No test is wrong because the machine was busy: an example may take as long as it takes.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """With another number the last bits differ, and with them a neighbour that KoLeo takes."""
    with feed.one_thread():
        yield
