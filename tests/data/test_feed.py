"""The GPU feed's protocol, with streams and events that only keep a record. What a GPU really does, test_loader asks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch

from dinov3.config.schema import Config
from dinov3.data import feed
from dinov3.data.augment import photometric, photometric_fused
from dinov3.data.feed import BatchRenderer, DeviceFeed, HostFeed, one_thread
from dinov3.data.slot_writer import SampleWriter
from dinov3.data.workers import Filler, InlineFiller, WorkerPool
from tests.data.fakes import Pictures

CPU = torch.device("cpu")


class FakeEvent:
    """Finished when asked ``patience`` times, or waited for."""

    patience: ClassVar[int] = 3

    def __init__(self) -> None:
        self.asked = 0

    def query(self) -> bool:
        self.asked += 1
        return self.asked > self.patience

    def synchronize(self) -> None:
        self.asked = self.patience + 1


class FakeStream:
    def __init__(self, *_: object) -> None:
        self.waited_for: list[FakeEvent] = []

    def record_event(self) -> FakeEvent:
        return FakeEvent()

    def wait_event(self, event: FakeEvent) -> None:
        self.waited_for.append(event)


@pytest.fixture
def consumer(monkeypatch: pytest.MonkeyPatch) -> FakeStream:
    stream = FakeStream()
    monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)
    monkeypatch.setattr(feed, "lock_pages", lambda *_: False)
    return stream


@contextlib.contextmanager
def fed(cfg: Config, kind: type[HostFeed] | type[DeviceFeed], workers: int) -> Iterator[HostFeed | DeviceFeed]:
    writer = SampleWriter.from_config(cfg, Pictures(), 0, 1)
    renderer = BatchRenderer(cfg, writer, CPU, torch.float32)
    filler: Filler = WorkerPool(writer, 0, workers, 60, "fork") if workers else InlineFiller(writer, 0)
    yield DeviceFeed(filler, renderer, 0, CPU) if kind is DeviceFeed else HostFeed(filler, renderer, 0)
    filler.close()


@pytest.mark.parametrize("patience", [0, 3, 10**6])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_looking_ahead_changes_no_batch_and_never_waits_for_ever(
    cfg: Config, consumer: FakeStream, patience: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeEvent, "patience", patience)
    with fed(cfg, HostFeed, 0) as host:
        expected = [host.get(n)[0] for n in range(15)]
    with fed(cfg, DeviceFeed, workers) as ahead:
        for n, batch in enumerate(expected):
            ours, _ = ahead.get(n)
            assert torch.equal(ours.collated_global_crops, batch.collated_global_crops)
            assert torch.equal(ours.mask_indices_list, batch.mask_indices_list)
            assert torch.equal(ours["sample_ids"], batch["sample_ids"])
    assert len(consumer.waited_for) == 15  # one event a batch: rendered


def test_the_next_batch_is_staged_as_soon_as_it_is_there(cfg: Config, consumer: FakeStream) -> None:
    with fed(cfg, DeviceFeed, 2) as ahead:
        assert isinstance(ahead, DeviceFeed)
        ahead.get(0)
        for n in range(1, 6):
            while not (ahead.staged or ahead.filler.ready(n)):
                pass
            ahead.get(n)
        assert len(ahead.copies) <= ahead.filler.slots


def test_a_batch_that_comes_late_is_staged_when_the_trainer_asks(
    cfg: Config, consumer: FakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fed(cfg, DeviceFeed, 2) as ahead:
        assert isinstance(ahead, DeviceFeed)
        late = True
        ready = ahead.filler.ready
        monkeypatch.setattr(ahead.filler, "ready", lambda n: not late and ready(n))
        ahead.get(0)
        ahead.stage_ahead()
        assert not ahead.staged
        while not ready(1):
            pass
        late = False
        ahead.stage_ahead()
        ahead.stage_ahead()  # once is enough
        assert len(ahead.staged) == 1
        expected = ahead.staged[0][0]
        assert ahead.get(1)[0] is expected


def test_an_error_of_page_locking_is_not_the_next_operations_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pending: list[str] = []

    class Cudart:
        def cudaHostRegister(self, *_: int) -> int:
            pending.append("out of memory")
            return 2

    def launch(*_: object, **__: object) -> torch.Tensor:
        if pending:
            raise RuntimeError(f"CUDA error: {pending.pop()}")
        return torch.ones(1)

    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "cudart", Cudart)
    monkeypatch.setattr(torch, "zeros", launch)
    assert not feed.lock_pages(torch.empty(8, dtype=torch.uint8), CPU)
    assert not pending
    torch.zeros(1)  # what the run does next


@pytest.mark.parametrize(("setting", "fuses"), [("auto", False), ("always", True), ("never", False)])
def test_colours_are_changed_in_the_form_the_config_names(
    cfg: Config, setting: Any, fuses: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg.compute_precision.fused = setting
    monkeypatch.setattr(photometric_fused, "why_not", lambda device: None)
    renderer = BatchRenderer(cfg, SampleWriter.from_config(cfg, Pictures(), 0, 1), CPU, torch.float32)
    assert renderer.render is (photometric_fused.render if fuses else photometric.render)


def test_colours_that_cannot_be_fused_say_why_and_take_the_plain_form(
    cfg: Config, caplog: pytest.LogCaptureFixture
) -> None:
    cfg.compute_precision.fused = "always"
    renderer = BatchRenderer(cfg, SampleWriter.from_config(cfg, Pictures(), 0, 1), CPU, torch.float32)
    assert renderer.render is photometric.render
    assert "colour changes are not fused: their kernels are for GPUs, crops are on cpu" in caplog.text


def test_threads_are_put_back_even_after_an_error() -> None:
    torch.set_num_threads(2)
    with contextlib.suppress(KeyError), one_thread():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == 2
