"""The first batch of a training run, to be looked at: where crops are cut, and what teacher and student see of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dinov3.config.schema import Config
from dinov3.contracts import CropBatch
from dinov3.data.crops import BOX_DRAWS, GLOBAL_CROPS, Box
from dinov3.data.decode import Pixels
from dinov3.data.loader import CropLoader
from dinov3.data.slot_writer import SampleWriter
from dinov3.data.sources.mixture import order_of
from dinov3.data.sources.source import Source
from dinov3.pictures.token_sheet import covered, token_sheet, unnormalised

ROWS = 6
SIDE = 416  # px of the tile with the whole image: twice what is drawn
GLOBAL_COLOURS = ("#e4572e", "#1b98e0")
LOCAL_COLOUR = "#f4d35e"
PAPER = 255


def contact_sheet(cfg: Config, source: Source, path: Path, rows: int = ROWS) -> None:
    """Write a PNG: the first ``rows`` images of the batch that a run of ``cfg`` on one process begins with.

    Everything on it comes from the loader of that run. Raises what the loader raises.
    """
    crops = replace(cfg.crops, global_crops_clean=True)
    data, train = replace(cfg.data, max_bad_frac=1.0), replace(cfg.train, num_workers=0)
    cfg = replace(cfg, crops=crops, data=data, train=train)
    device = torch.device("cpu")
    with CropLoader(cfg, source, position=0, rank=0, world_size=1, device=device, dtype=torch.float32) as loader:
        batch = next(loader)
    writer = SampleWriter.from_config(cfg, source, 0, 1)
    rows = min(rows, batch.batch_size)
    columns = {"image: crops 1 and 2, local crops": torch.stack([_whole(writer, n) for n in range(rows)])}
    columns |= _global_columns(cfg, batch, rows) | _local_column(cfg, batch, rows)
    _, indices = order_of(source).samples_at(np.arange(rows), cfg.train.seed)
    names = [Path(source.name(index)).name for index in indices.tolist()]
    title = (
        f"first batch of the run with seed {cfg.train.seed}: {cfg.crops.augmentation} augmentation, "
        f"patch {cfg.student.patch_size}, masked patches in pink"
    )
    token_sheet(columns, names, title, path)


def _whole(writer: SampleWriter, n: int) -> Tensor:
    """``[3, SIDE, SIDE]`` in [0, 1]: image ``n`` of the batch, its boxes drawn on it."""
    epochs, indices = order_of(writer.source).samples_at(np.array([n]), writer.seed)
    epoch, index = int(epochs[0]), int(indices[0])
    pixels, geometry = writer.image_of(epoch, index, []), writer.resolution_at(0).geometry
    height, width, _ = pixels.shape
    boxes = geometry.boxes(writer.draws_of(epoch, index)[:, :BOX_DRAWS].tolist(), height, width)
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = Image.fromarray(_as_rgb(pixels)).resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    drawing = ImageDraw.Draw(image)
    for local, box in enumerate(boxes[GLOBAL_CROPS:]):
        inside = boxes[geometry.parent_of(local)] if geometry.locals_in_globals else None
        drawing.rectangle(_corners(box, scale, inside, geometry.global_size), outline=LOCAL_COLOUR, width=2)
    for crop, (box, colour) in enumerate(zip(boxes[:GLOBAL_CROPS], GLOBAL_COLOURS, strict=True)):
        left, top, right, bottom = _corners(box, scale)
        drawing.rectangle((left, top, right, bottom), outline=colour, width=5)
        corner = (left + 9, top + 5) if crop == 0 else (right - 27, bottom - 37)
        font = ImageFont.load_default(34)
        drawing.text(corner, str(crop + 1), fill=colour, font=font, stroke_width=2, stroke_fill="white")
    canvas = Image.new("RGB", (SIDE, SIDE), (PAPER,) * 3)
    canvas.paste(image, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1) / 255


def _corners(box: Box, scale: float, parent: Box | None = None, parent_size: int = 1) -> tuple[float, ...]:
    """(left, top, right, bottom) on the drawing; a box in the pixels of a crop is brought back to its ``parent`` box."""
    top, left, height, width = (float(x) for x in box)
    if parent is not None:
        down, across = parent.height / parent_size, parent.width / parent_size
        top, left = parent.top + top * down, parent.left + left * across
        height, width = height * down, width * across
    return left * scale, top * scale, (left + width) * scale - 1, (top + height) * scale - 1


def _as_rgb(pixels: Pixels) -> Pixels:
    """``[H, W, 3]``: of other channels the first three, or the first one in gray."""
    return pixels[:, :, :3] if pixels.shape[2] >= 3 else np.repeat(pixels[:, :, :1], 3, axis=2)


def _tiles(cfg: Config, crops: Tensor) -> Tensor:
    """Normalised ``crops [N, C, h, w]`` as pictures ``[N, 3, h, w]`` in [0, 1]."""
    shown = unnormalised(crops, cfg.crops.rgb_mean, cfg.crops.rgb_std)
    return shown[:, :3] if shown.shape[1] >= 3 else shown[:, :1].expand(-1, 3, -1, -1)


def _global_columns(cfg: Config, batch: CropBatch, rows: int) -> dict[str, Tensor]:
    """Each global crop clean, for the Gram teacher if there is one, for the teacher and for the student."""
    columns, grid = {}, batch.collated_global_crops.shape[-1] // cfg.student.patch_size
    clean, gram = batch.collated_global_crops_clean, batch.collated_gram_teacher_crops
    assert clean is not None  # it was asked for
    for crop in range(GLOBAL_CROPS):
        first = slice(crop * batch.batch_size, crop * batch.batch_size + rows)
        seen = _tiles(cfg, batch.collated_global_crops[first])
        masks = batch.collated_masks[first].unflatten(1, (grid, grid))  # [rows, grid, grid]
        columns[f"crop {crop + 1}: clean, {clean.shape[-1]} px"] = _tiles(cfg, clean[first])
        if gram is not None:
            columns[f"crop {crop + 1}: Gram teacher, {gram.shape[-1]} px"] = _tiles(cfg, gram[first])
        columns[f"crop {crop + 1}: teacher, {seen.shape[-1]} px"] = seen
        columns[f"crop {crop + 1}: student, masked"] = covered(seen, masks)
    return columns


def _local_column(cfg: Config, batch: CropBatch, rows: int) -> dict[str, Tensor]:
    """All local crops of an image in one tile."""
    if len(batch.collated_local_crops) == 0:
        return {}
    local = batch.collated_local_crops.unflatten(0, (-1, batch.batch_size))[:, :rows]  # [L, rows, C, h, w]
    number, size = local.shape[0], local.shape[-1]
    across = int(np.ceil(np.sqrt(number)))
    gap = max(1, size // 24)
    side = across * (size + gap) - gap
    sheet = torch.ones(rows, 3, side, side)
    for n in range(number):
        top, left = n // across * (size + gap), n % across * (size + gap)
        sheet[:, :, top : top + size, left : left + size] = _tiles(cfg, local[n])
    return {f"{number} local crops, {size} px": sheet}
