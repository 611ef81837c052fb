"""From full slots to batches on the device of the model, on a GPU one batch ahead of the consumer."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

from dinov3.config.derived import fused
from dinov3.config.schema import Config
from dinov3.contracts import CropBatch
from dinov3.data.augment import photometric, photometric_fused
from dinov3.data.augment.augmentation import Augmentation, crop_params
from dinov3.data.augment.photometric import Normalization
from dinov3.data.bad_samples import BadSample
from dinov3.data.collate import assemble
from dinov3.data.crops import GLOBAL_CROPS
from dinov3.data.errors import DataError
from dinov3.data.slot_writer import SampleWriter
from dinov3.data.workers import Filler

log = logging.getLogger(__name__)


class BatchRenderer:
    """A full slot to a CropBatch: everything after the crops are cut."""

    def __init__(self, cfg: Config, writer: SampleWriter, device: torch.device, dtype: torch.dtype) -> None:
        crops, channels = cfg.crops, cfg.student.in_chans
        for key, values in (("rgb_mean", crops.rgb_mean), ("rgb_std", crops.rgb_std)):
            if len(values) != channels:
                raise DataError(
                    f"crops.{key} has {len(values)} values, student.in_chans is {channels}: give one a channel"
                )
        self.writer = writer
        self.augmentation = Augmentation.from_config(cfg)
        self.normalization = Normalization(crops.rgb_mean, crops.rgb_std, dtype, device)
        self.gram_distortions = not crops.gram_teacher_no_distortions
        self.render = photometric.render
        if fused(cfg, device.type):
            if (reason := photometric_fused.why_not(device)) is None:
                self.render = photometric_fused.render
            else:
                log.warning("colour changes are not fused: %s", reason)

    def __call__(self, slot: Tensor, crops: Tensor, position: int, part: int = 0) -> CropBatch:
        """This process's ``part`` of the batch at ``position``, from its ``slot`` on the host and its ``crops`` (the slot's head) on the device.

        Upstream blurs the largest crop of a box and shrinks it afterwards, so sigma counts in that crop's pixels.
        """
        writer, resolution = self.writer, self.writer.resolution_at(position)
        layout, geometry, largest = resolution.layout, resolution.geometry, resolution.largest
        params = crop_params(layout.draws.within(slot).numpy(), self.augmentation, geometry)
        n_global = GLOBAL_CROPS * writer.batch_size
        for_global, for_local = params[:n_global], params[n_global:]
        global_crops, clean = self.render(
            layout.global_crops.within(crops).flatten(0, 1),
            for_global.with_sigma_scaled(geometry.global_size / largest),
            self.normalization,
            clean_size=resolution.clean_size,
        )
        local_crops, _ = self.render(layout.local_crops.within(crops).flatten(0, 1), for_local, self.normalization)
        gram = None
        if layout.gram_crops is not None:
            gram, _ = self.render(
                layout.gram_crops.within(crops).flatten(0, 1),
                for_global.with_sigma_scaled(layout.gram_crops.shape[2] / largest),
                self.normalization,
                photometric=self.gram_distortions,
            )
        return assemble(
            global_crops,
            local_crops,
            layout.masks.within(slot).flatten(0, 1).numpy().copy(),
            upperbound=resolution.upperbound,
            global_batch_size=writer.global_batch,
            clean=clean,
            gram=gram,
            sample_ids=writer.positions(position, part),
        )


class HostFeed:
    """Renders where the slots are. Batch 0 starts at position ``first`` of the stream of samples."""

    def __init__(self, filler: Filler, renderer: BatchRenderer, first: int) -> None:
        self.filler, self.renderer, self.first = filler, renderer, first

    def get(self, number: int) -> tuple[CropBatch, list[BadSample]]:
        """Batch ``number`` and the images that could not be read."""
        with one_thread():
            bad = self.filler.wait(number)
            slot = self.filler.slot(number)
            batch = self.renderer(slot, slot, *self.renderer.writer.batch_at(self.first, number))
        self.filler.release()
        return batch, bad

    def stage_ahead(self) -> None:
        """Nothing: here the host renders, and it has no time while the consumer computes."""

    def close(self) -> None:
        """Nothing to give back."""


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Torch's operations inside use one thread.

    They are many and short here: where workers or other programs want the cores too, threads that wait for each other
    at the end of each of them made this 30 times slower.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class DeviceFeed:
    """Copies and renders on a stream of its own; the next batch is on its way while the consumer computes.

    ``get`` stages the next batch when it is there. One that becomes ready later is staged by ``stage_ahead``, which the
    consumer calls when the device has enough to do and before the host waits for it.

    The ring is page-locked, so copies do not stop the host. A slot is released when its copy has finished.
    """

    def __init__(self, filler: Filler, renderer: BatchRenderer, first: int, device: torch.device) -> None:
        self.filler, self.renderer, self.first, self.device = filler, renderer, first, device
        self.stream = torch.cuda.Stream(device)
        self.staged: deque[tuple[CropBatch, list[BadSample], torch.cuda.Event]] = deque()
        self.copies: deque[torch.cuda.Event] = deque()  # of slots not yet released
        self.locked = lock_pages(filler.memory, device)
        self.next = 0  # the batch that ``get`` gives next

    def get(self, number: int) -> tuple[CropBatch, list[BadSample]]:
        """Batch ``number`` and the images that could not be read."""
        if not self.staged:
            self._stage(number)
        batch, bad, rendered = self.staged.popleft()
        consumer = torch.cuda.current_stream(self.device)
        consumer.wait_event(rendered)
        for value in vars(batch).values():
            if isinstance(value, Tensor):
                value.record_stream(consumer)
        self._release_copied()
        self.next = number + 1
        self.stage_ahead()
        return batch, bad

    def stage_ahead(self) -> None:
        """Start the next batch if it is there and not on its way; never waits for workers."""
        if not self.staged and self.filler.ready(self.next):
            self._stage(self.next)

    def _stage(self, number: int) -> None:
        self._release_copied()
        bad = self.filler.wait(number)
        slot = self.filler.slot(number)
        position, part = self.renderer.writer.batch_at(self.first, number)
        crop_bytes = self.renderer.writer.resolution_at(position).layout.crop_bytes
        with torch.cuda.stream(self.stream):
            crops = slot[:crop_bytes].to(self.device, non_blocking=True)
            self.copies.append(self.stream.record_event())
            batch = self.renderer(slot, crops, position, part)
            self.staged.append((batch, bad, self.stream.record_event()))

    def _release_copied(self) -> None:
        """Release the slots whose copies have finished; wait for the oldest when workers have none left."""
        while self.copies and (self.copies[0].query() or len(self.copies) >= self.filler.slots):
            self.copies.popleft().synchronize()
            self.filler.release()

    def close(self) -> None:
        """Unlock the ring's pages."""
        if self.locked:
            torch.cuda.synchronize(self.device)
            torch.cuda.cudart().cudaHostUnregister(self.filler.memory.data_ptr())
            self.locked = False


def lock_pages(memory: Tensor, device: torch.device) -> bool:
    """Page-lock ``memory`` for fast copies to ``device``. False, with a warning, where the driver refuses."""
    with torch.cuda.device(device):
        error = int(torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), memory.numel(), 0))
    if error:
        log.warning("the loader's memory cannot be page-locked (CUDA error %d): copies to the GPU are slower", error)
        clear_last_error(device)
    return error == 0


def clear_last_error(device: torch.device) -> None:
    """Forget the error a CUDA call has returned, which the next kernel launch would report as its own.

    CUDA keeps it until somebody reads it. torch reads it after every launch: so one is made whose report nobody needs.
    """
    with contextlib.suppress(RuntimeError):
        torch.zeros(1, device=device)
