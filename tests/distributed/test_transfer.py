from __future__ import annotations

import torch

from dinov3.distributed.transfer import Later, send


def test_numbers_arrive_as_they_were_sent() -> None:
    x = torch.arange(5)
    assert send(x, torch.device("cpu")) is x
    assert Later(torch.stack([x.sum(), x.max()])).read() == [10, 4]


def test_reading_waits_for_what_came_before_and_not_for_the_queue(monkeypatch: object) -> None:
    """On a GPU the copy goes to page-locked memory and an event stands behind it."""
    later = Later(torch.tensor([1, 2]))
    waited: list[str] = []

    class Event:
        def synchronize(self) -> None:
            waited.append("event")

    later._done = Event()
    assert later.read() == [1, 2]
    assert waited == ["event"]
