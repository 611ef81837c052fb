"""Sections G, I and J: a whole training step of ViT-B, ViT-S (also from files) and ViT-L; K, L and O: ViT-B in other forms."""

from __future__ import annotations

import gc
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from benchmarks.gpu_sections.pieces import TINY_MODEL
from benchmarks.gpu_sections.plan import Settings, Turn
from benchmarks.gpu_sections.report import NotHere, Row, SectionReport, device_of
from benchmarks.measure import Compilations, PeakMemory, plain_steps, profile_steps, wait_for
from benchmarks.reference import END_TO_END, GIB, TARGETS, official
from benchmarks.synthetic_step import Recipe, SyntheticStep, crop_loader, shares
from dinov3.data.feed import one_thread
from dinov3.data.slot_writer import SampleWriter
from dinov3.data.sources import open_dataset

RECIPES = {"G": Recipe("vit_base", 128), "I": Recipe("vit_small", 256), "J": Recipe("vit_large", 128, drop_path=0.3)}
RECIPES["K"] = replace(RECIPES["G"], more={"compute_precision.residual_dtype": "fp32"})
RECIPES["L"] = replace(RECIPES["G"], more={"train.compile_blocks": "true"})
RECIPES["O"] = replace(RECIPES["G"], more={"compute_precision.fused_rotation": "true"})
GIB_PER_IMAGE = {"vit_small": 0.21, "vit_base": 0.40, "vit_large": 0.80}  # estimated before a GPU was there
USABLE = 0.92  # of the card's memory
WARMUP, PLAIN, WITH_PARTS, PROFILED = 4, 20, 5, 3
LARGEST_CACHE = 12 * 2**20  # bytes: a file that comes back from a machine is not to be larger
IMAGES, IMAGE_SIZE = 512, (500, 375)  # as many pixels as ImageNet's pictures have on average
END_TO_END_STEPS, END_TO_END_WARMUP = 60, 10


def run(report: SectionReport, settings: Settings) -> None:
    device = device_of(settings.device)
    recipe = recipe_of(report.letter, settings, device)
    compilations = Compilations()
    step = warmed_up(report, settings, recipe, device, compilations)
    if step is None:
        return
    with Turn(Path(settings.turns), report.letter).taken() if settings.turns else nullcontext():
        timed(report, settings, step, compilations)


def timed(report: SectionReport, settings: Settings, step: SyntheticStep, compilations: Compilations) -> None:
    """Everything behind the warm-up."""
    speed: Row = {}
    device = step.device
    with report.item("step") as row:
        plain(step, row, compilations, 4 if settings.tiny else PLAIN)
        speed |= row
    done = WARMUP + PLAIN
    with report.item("parts of the step") as row:
        n = 2 if settings.tiny else WITH_PARTS
        parts = step.wrapped()
        seconds = sum(plain_steps(step, done, n, device)) / n
        parts.unwrap()
        row |= {"ms_per_step": round(seconds * 1e3, 2), "share": shares(parts, n, seconds)}
        row["waits_cost"] = round(seconds / speed["seconds_per_step"], 3) if speed else None
    with report.item("profile of the step") as row:
        row |= profile_steps(step, done + WITH_PARTS, PROFILED, device)
        if speed and row.get("busy_ms"):
            row["idle_share_without_profiler"] = round(1 - row["busy_ms"] / speed["seconds_per_step"] / 1e3, 4)
    with report.item("compile cache") as row:
        row |= save_cache(settings, report.letter)
    if report.letter == "I":
        with report.item("end to end from files") as row:
            end_to_end(report, settings, step, row, speed, compilations)


def recipe_of(letter: str, settings: Settings, device: torch.device) -> Recipe:
    """What the section trains here: the batch is halved until it should fit, or scaled as it was asked for."""
    recipe = RECIPES[letter]
    more = recipe.more | dict(key.split("=", 1) for key in settings.keys)
    if settings.tiny:
        tiny = Recipe("vit_small", 2, global_size=32, local_size=16, locals=2, prototypes=64, dtype="fp32")
        return replace(tiny, more=TINY_MODEL | more)
    recipe = replace(recipe, more=more)
    if letter in "GHKLO" and settings.arch:
        recipe = replace(recipe, arch=settings.arch)
    if settings.batch_scale != "auto":
        return replace(recipe, batch=max(1, round(recipe.batch * float(settings.batch_scale))))
    card = torch.cuda.get_device_properties(device).total_memory / GIB
    while recipe.batch > 8 and recipe.batch * GIB_PER_IMAGE.get(recipe.arch, 0.8) > USABLE * card:
        recipe = replace(recipe, batch=recipe.batch // 2)
    return recipe


def warmed_up(
    report: SectionReport, settings: Settings, recipe: Recipe, device: torch.device, compilations: Compilations
) -> SyntheticStep | None:
    """A step that has run ``WARMUP`` times; with half the batch when memory was not enough. None: it cannot run."""
    while True:
        step, full = None, False
        with report.item("build, compile and warm up") as row:
            row |= {"arch": recipe.arch, "batch": recipe.batch, "cache": load_cache(settings, report.letter)}
            try:
                step = SyntheticStep(recipe, device)
                row["prepared"] = step.prepared
                row["seconds_of_each"] = [round(s, 2) for s in timed_alone(step, WARMUP)]
                row["compiled"] = compilations.figures()
                row["compile_phases"] = compile_phases()
            except torch.OutOfMemoryError:
                full = True
                raise
            except BaseException:
                step = None
                raise
        if not full:
            return step
        step = None
        gc.collect()
        torch.cuda.empty_cache()
        if recipe.batch <= 8:
            return None
        recipe = replace(recipe, batch=recipe.batch // 2)


def compile_phases() -> dict[str, float]:
    """Seconds of the longest phases of compilation; one lies inside another."""
    from torch._dynamo.utils import compilation_time_metrics

    totals = {name: round(sum(seconds), 2) for name, seconds in compilation_time_metrics.items()}
    return dict(sorted(totals.items(), key=lambda pair: -pair[1])[:25])


def timed_alone(step: SyntheticStep, count: int) -> list[float]:
    """Seconds of the first ``count`` steps, each waited for: the first compile."""
    seconds = []
    for number in range(count):
        started = time.perf_counter()
        step(number)
        wait_for(step.device)
        seconds.append(time.perf_counter() - started)
    return seconds


def plain(step: SyntheticStep, row: Row, compilations: Compilations, count: int) -> None:
    """Time, peak memory and compilations of plain steps, beside the official figure."""
    recipe, memory = step.recipe, PeakMemory(step.device)
    memory.restart()
    compilations.restart()
    seconds = plain_steps(step, WARMUP, count, step.device)
    middle = median(seconds)
    row |= {
        "arch": recipe.arch,
        "batch": recipe.batch,
        "drop_path": recipe.drop_path,
        "keys": [f"{k}={v}" for k, v in recipe.more.items() if TINY_MODEL.get(k) != v],
        "runs_in": step.precision.name,
        "seconds_per_step": round(middle, 5),
        "mean_seconds": round(sum(seconds) / len(seconds), 5),
        "slowest_seconds": round(max(seconds), 5),
        "images_per_second": round(recipe.batch / middle, 1),
        "peak_gib": round(memory.close(), 2),
        "compiled": compilations.figures(),
    }
    against_official(row, recipe, step.device)


def against_official(row: Row, recipe: Recipe, device: torch.device) -> None:
    """``ratio`` in images/s and whether the target is met; on a CPU there is nothing to compare with."""
    reference = official(recipe.arch, recipe.batch, device.type)
    if device.type != "cuda" or reference is None:
        return
    row["official"] = reference.row()
    row["ratio"] = round(row["images_per_second"] / reference.images_per_second, 3)
    row["target"] = TARGETS.get(recipe.arch)
    if row["target"]:
        row["passed"] = row["ratio"] >= row["target"]


def load_cache(settings: Settings, letter: str) -> str:
    """Take up what an earlier call compiled; it is code, so only from a folder that was named."""
    path = None if settings.cache is None else Path(settings.cache) / f"compiled-{letter}.bin"
    if path is None or not path.exists():
        return "none"
    try:
        torch.compiler.load_cache_artifacts(path.read_bytes())
    except Exception as error:  # noqa: BLE001 of another torch or card: then everything is compiled again
        return f"not usable: {type(error).__name__}: {error}"[:300]
    return f"{path.stat().st_size} bytes"


def save_cache(settings: Settings, letter: str) -> Row:
    if settings.cache is None:
        raise NotHere("no --cache FOLDER")
    artifacts = torch.compiler.save_cache_artifacts()
    if artifacts is None:
        raise NotHere("nothing was compiled")
    size = len(artifacts[0])
    if size <= LARGEST_CACHE:
        folder = Path(settings.cache)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"compiled-{letter}.bin").write_bytes(artifacts[0])
    return {"bytes": size, "kept": size <= LARGEST_CACHE}


def end_to_end(
    report: SectionReport, settings: Settings, step: SyntheticStep, row: Row, speed: Row, compilations: Compilations
) -> None:
    """The same step fed from JPEG files by the loader."""
    size, count, steps = ((48, 40), 8, 4) if settings.tiny else (IMAGE_SIZE, IMAGES, END_TO_END_STEPS)
    folder = settings.scratch / "photographs"
    write_photographs(folder, count, size)
    workers = 0 if settings.tiny else max(1, (os.cpu_count() or 2) - 2)
    warmup = 1 if settings.tiny else END_TO_END_WARMUP
    first = WARMUP + PLAIN + WITH_PARTS + PROFILED
    dataset = f"ImageFolder:root={folder}"
    row["ms_an_image_of_a_worker_alone"] = alone(step.recipe, dataset, 4 if settings.tiny else 64)
    compilations.restart()
    taken, started, waited, busy = 0, 0.0, 0.0, 0.0
    with crop_loader(step.recipe, dataset, step.device, workers=workers, dtype=torch.float32) as loader:
        for number in range(steps):
            if number == warmup:
                wait_for(step.device)
                started, waited, busy = time.perf_counter(), loader.wait_seconds, processor_seconds_of_workers()
            step.on(next(loader), first + number)
            taken += number >= warmup
            if number > warmup and report.left() < 3:
                break
        wait_for(step.device)
        elapsed, busy = time.perf_counter() - started, processor_seconds_of_workers() - busy
        row["data_wait"] = round((loader.wait_seconds - waited) / elapsed, 4)
    rate = taken * step.recipe.batch / elapsed
    row |= {"images_per_second": round(rate, 1), "steps": taken, "workers": workers, "compiled": compilations.figures()}
    # as much as alone: the loader's workers wait, or are too few; more: the cores are not theirs, or are slower together
    row["processor_ms_an_image"] = round(busy / (taken * step.recipe.batch) * 1e3, 3) if busy else None
    if speed:
        row["of_step_rate"] = round(rate / speed["images_per_second"], 3)
        row["target"] = END_TO_END
        row["passed"] = settings.tiny or row["of_step_rate"] >= END_TO_END


def alone(recipe: Recipe, dataset: str, images: int) -> float:
    """Milliseconds of the processor that one process, with one thread, needs for an image: read, decoded, cut."""
    cfg = replace(recipe, batch=images, more=recipe.more | {"train.dataset_path": dataset}).config()
    writer = SampleWriter.from_config(cfg, open_dataset(dataset), 0, 1)
    slot = torch.zeros(writer.resolutions.slot_bytes, dtype=torch.uint8)
    with one_thread():
        writer.fill(slot, 0, 0, images)
        started = time.process_time()
        writer.fill(slot, 0, 0, images)
        return round((time.process_time() - started) / images * 1e3, 3)


def processor_seconds_of_workers() -> float:
    """Of all processes below this one; 0 where the system does not tell."""
    parents, seconds = {}, {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            words = file.read_bytes().rpartition(b")")[2].split()
            pid = int(file.parent.name)
            parents[pid], seconds[pid] = int(words[1]), (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
    below = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return sum(seconds.get(pid, 0.0) for pid in below - {os.getpid()})


def write_photographs(folder: Path, count: int, size: tuple[int, int]) -> None:
    """JPEGs that are as hard to decode as photographs: soft shapes with some noise on them."""
    folder.mkdir(parents=True, exist_ok=True)

    def write(number: int) -> None:
        rng = np.random.default_rng(number)
        soft = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
        pixels = np.asarray(soft, dtype=np.int16) + rng.integers(-12, 13, (size[1], size[0], 3), dtype=np.int16)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:04d}.jpg", quality=88)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(count)))
