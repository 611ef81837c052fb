from __future__ import annotations

import pytest

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
