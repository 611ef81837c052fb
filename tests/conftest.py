from __future__ import annotations

from collections.abc import Iterator

import pytest

from dinov3.data import feed


@pytest.fixture
def one_thread() -> Iterator[None]:
    """With another number the last bits differ, and with them a neighbour that KoLeo takes."""
    with feed.one_thread():
        yield
