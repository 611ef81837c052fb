from __future__ import annotations

import pytest

from dinov3.distributed import context
from dinov3.distributed.context import is_loss_of_a_peer

GLOO = "[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:58057. This is typically caused by"


@pytest.mark.parametrize(
    ("text", "processes", "lost"),
    [(GLOO, "2", True), (GLOO, "1", False), ("CUDA out of memory", "2", False), ("shape mismatch", "2", False)],
)
def test_only_an_error_of_the_connection_between_processes_means_that_another_one_has_ended(
    text: str, processes: str, lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked after the group is left, so a group cannot be a condition."""
    monkeypatch.setenv("WORLD_SIZE", processes)
    assert is_loss_of_a_peer(RuntimeError(text)) is lost


@pytest.mark.parametrize(
    ("part", "expected"),
    [(range(8), 4), (range(4, 12), 4), (range(4, 8), 4), (range(1, 3), 2), (range(5, 6), 1), (range(2, 6), 0)],
)
def test_a_part_of_the_processes_has_as_many_on_each_machine_or_none_that_counts(
    part: range, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert context.per_machine(part) == expected
