"""CPU time of multi-crop loading, ours beside a pipeline of PIL and torchvision as the official code has it.

    python -m benchmarks.loader --data FOLDER_OF_JPEGS [--images 256] [--rounds 5] [--threads 1] [--workers N]

2 global crops of 256, 8 local ones of 112, and the clean global crops. Files are in memory before the clock starts.
The variants take turns on the same images; figures are medians over rounds, ratios are medians of ratios within a
round. One JSON line a measurement; ``process_time`` counts all threads. ``--workers`` adds wall-clock rates of whole
loaders, where the machine must be otherwise idle.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dinov3.config.schema import Config
from dinov3.data.crops import BOX_DRAWS, cut_and_resize, random_resized_box
from dinov3.data.decode import decode
from dinov3.data.errors import BadImage
from dinov3.data.feed import BatchRenderer
from dinov3.data.slot_writer import SampleWriter
from dinov3.data.sources.imagefolder import ImageFolder
from dinov3.data.torchvision_compat import import_torchvision
from dinov3.data.workers import WorkerPool

BATCH = 64
GLOBAL, LOCAL, N_LOCAL = 256, 112, 8


class InMemory:
    """Encoded images, all of them readable."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.files: list[bytes] = []
        source = ImageFolder(folder)
        for index in range(len(source)):
            data = source.read(index)
            try:
                decode(data)
            except BadImage:
                continue
            self.files.append(data)
            if len(self.files) == limit:
                break

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> bytes:
        return self.files[index]

    def label(self, index: int) -> int | None:
        return None

    def name(self, index: int) -> str:
        return str(index)

    def fingerprint(self) -> str:
        return "in memory"


class Reference:
    """What the official pipeline does to an image, built from torchvision's v2 transforms on PIL images.

    Blur is applied to 0 %, 90 % and 50 % of the first global, second global and local crops: as the official code runs.
    """

    def __init__(self) -> None:
        v2 = import_torchvision("torchvision.transforms.v2")
        bicubic = import_torchvision("torchvision.transforms").InterpolationMode.BICUBIC

        def geometry(size: int, scale: tuple[float, float]) -> Any:
            resized_crop = v2.RandomResizedCrop(size, scale=scale, interpolation=bicubic)
            return v2.Compose([resized_crop, v2.RandomHorizontalFlip(p=0.5)])

        def colours(blur: float, solarize: float) -> Any:
            jitter = v2.RandomApply([v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)], p=0.8)
            steps = [jitter, v2.RandomGrayscale(p=0.2)]
            steps += [v2.RandomApply([v2.GaussianBlur(kernel_size=9, sigma=(0.1, 2.0))], p=blur)] if blur else []
            steps += [v2.RandomSolarize(threshold=128, p=solarize)] if solarize else []
            return v2.Compose([*steps, self.normalize])

        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        to_float = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean=mean, std=std)]
        self.normalize = v2.Compose(to_float)
        self.cut_global, self.cut_local = geometry(GLOBAL, (0.32, 1.0)), geometry(LOCAL, (0.05, 0.32))
        self.colours = [colours(0.0, 0.0), colours(0.9, 0.2)]
        self.local_colours = colours(0.5, 0.0)

    def __call__(self, data: bytes) -> list[Tensor]:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        bases = [self.cut_global(image) for _ in self.colours]
        crops = [colours(base) for colours, base in zip(self.colours, bases, strict=True)]
        clean = [self.normalize(base) for base in bases]
        return crops + clean + [self.local_colours(self.cut_local(image)) for _ in range(N_LOCAL)]


def settings(workers: int) -> Config:
    cfg = Config()
    cfg.crops.global_crops_size, cfg.crops.local_crops_size, cfg.crops.local_crops_number = GLOBAL, LOCAL, N_LOCAL
    cfg.crops.global_crops_clean = True
    cfg.train.batch_size_per_gpu, cfg.train.num_workers = BATCH, workers
    return cfg


def variants(source: InMemory) -> dict[str, Callable[[int], object]]:
    """Name -> work on the batch of that number."""
    cfg, reference = settings(0), Reference()
    writer = SampleWriter.from_config(cfg, source, 0, 1)
    renderer = BatchRenderer(cfg, writer, torch.device("cpu"), torch.float32)
    slot = torch.zeros(writer.resolutions.slot_bytes, dtype=torch.uint8)

    def official(batch: int) -> None:
        for i in range(BATCH):
            reference(source.read((batch * BATCH + i) % len(source)))

    def crops_only(batch: int) -> None:
        writer.fill(slot, batch * BATCH, 0, BATCH)

    def crops_and_colours(batch: int) -> None:
        crops_only(batch)
        renderer(slot, slot, batch * BATCH)

    def decode_only(batch: int) -> None:
        for i in range(BATCH):
            decode(source.read((batch * BATCH + i) % len(source)))

    return {
        "reference: PIL and torchvision": official,
        "ours: uint8 crops and masks (colours on the GPU)": crops_only,
        "ours: the same, colours on this CPU": crops_and_colours,
        "ours: decoding alone": decode_only,
    }


def report(**row: object) -> None:
    print(json.dumps(row), flush=True)


def cpu_time(source: InMemory, rounds: int) -> None:
    """CPU milliseconds an image of each variant."""
    work = variants(source)
    times: dict[str, list[float]] = {name: [] for name in work}
    for number in range(-1, rounds):  # round -1 warms up
        for name, run in work.items():
            started = time.process_time()
            run(max(number, 0))
            if number >= 0:
                times[name].append((time.process_time() - started) / BATCH * 1e3)
    first = next(iter(times.values()))
    for name, spent in times.items():
        ms = statistics.median(spent)
        ratio = statistics.median(r / s for r, s in zip(first, spent, strict=True))
        speed = {"images_per_second_and_core": round(1e3 / ms, 1), "ratio_to_reference": round(ratio, 2)}
        report(measurement=name, cpu_ms_per_image=round(ms, 3), **speed, rounds=rounds, threads=torch.get_num_threads())


def crop_difference(source: InMemory, images: int = 64) -> None:
    """Our crops beside PIL's crop().resize(BICUBIC) of the same boxes."""
    rng, differences = np.random.default_rng(0), []
    for data in source.files[:images]:
        pixels = decode(data)
        picture, tensor = Image.fromarray(pixels), torch.from_numpy(pixels)
        for size, scale in [(GLOBAL, (0.32, 1.0))] * 2 + [(LOCAL, (0.05, 0.32))] * N_LOCAL:
            box = random_resized_box(rng.random(BOX_DRAWS).tolist(), pixels.shape[0], pixels.shape[1], scale)
            out = torch.empty(size, size, 3, dtype=torch.uint8)
            cut_and_resize(tensor, box, out)
            edges = (box.left, box.top, box.left + box.width, box.top + box.height)
            theirs = np.asarray(picture.crop(edges).resize((size, size), Image.Resampling.BICUBIC)).astype(int)
            differences.append(np.abs(out.numpy() - theirs).ravel())
    off = np.concatenate(differences)
    report(
        measurement="our crops beside PIL's bicubic",
        mean_absolute_difference_of_255=round(float(off.mean()), 4),
        share_within_1=round(float((off <= 1).mean()), 6),
        largest=int(off.max()),
        crops=len(differences),
    )


def wall_clock(source: InMemory, workers: int, batches: int = 20) -> None:
    """Images a second that ``workers`` processes put into shared memory."""
    pool = WorkerPool(SampleWriter.from_config(settings(workers), source, 0, 1), 0, workers, timeout=120)
    for number in range(batches):
        if number == pool.slots:  # everything prepared in advance is used up
            started = time.perf_counter()
        pool.wait(number)
        pool.release()
    ours = (batches - pool.slots) * BATCH / (time.perf_counter() - started)
    pool.close()
    reference = torch.utils.data.DataLoader(
        References(source, 4 * BATCH * workers), batch_size=BATCH, num_workers=workers, collate_fn=stack
    )
    theirs, started = 0, time.perf_counter()
    for number, _ in enumerate(reference):
        if number == 2 * workers:
            theirs, started = 0, time.perf_counter()
        theirs += BATCH
    rate = theirs / (time.perf_counter() - started)
    report(measurement="reference: DataLoader", images_per_second=round(rate, 1), workers=workers)
    report(
        measurement="ours: workers into shared memory",
        images_per_second=round(ours, 1),
        ratio_to_reference=round(ours / rate, 2),
        workers=workers,
    )


class References(torch.utils.data.Dataset[list[Tensor]]):
    """The reference as a dataset of ``n`` samples."""

    def __init__(self, source: InMemory, n: int) -> None:
        self.source, self.n, self.reference = source, n, Reference()

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> list[Tensor]:
        return self.reference(self.source.read(index % len(self.source)))


def stack(samples: Sequence[list[Tensor]]) -> list[Tensor]:
    """Crop by crop."""
    return [torch.stack(crops) for crops in zip(*samples, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.loader", description=__doc__.split("\n", 1)[0] if __doc__ else ""
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of JPEG photographs")
    parser.add_argument("--images", type=int, default=256, help="images used at most")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--workers", type=int, default=0, help="also measure whole loaders with so many processes")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    source = InMemory(args.data, args.images)
    cpu_time(source, args.rounds)
    crop_difference(source)
    if args.workers:
        wall_clock(source, args.workers)


if __name__ == "__main__":
    main()
