"""A geometry teacher in the layout of Depth Anything 3, made here: its encoder, small, learns the depth of synthetic scenes.

    python -m benchmarks.da3_teacher --output-dir runs/geometry optim.epochs=4

The published weights are not at hand; what they were trained for is. Each checkpoint has a folder ``da3`` for ``da3.ckpt_path``.
The encoder stands in the place of the variant ``small``: programs that read it call ``put_in_place`` first, as ``da3_student`` does.
"""

# ruff: noqa: RUF009 - key() makes a dataclass field
from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinov3.config.blocks.train import LoopConfig
from dinov3.config.kind import Schema
from dinov3.config.run_config import RunBlocks
from dinov3.config.spec import key
from dinov3.contracts import Features
from dinov3.data.bad_samples import BadSampleLog
from dinov3.data.decode import USUAL
from dinov3.data.sources.synthetic import Synthetic
from dinov3.dense.augment import Augment
from dinov3.dense.depth_losses import l1_loss
from dinov3.dense.feeding import Crops, Feeding
from dinov3.dense.sets import SyntheticTruth
from dinov3.depth.measured import MeasuredSet
from dinov3.engine.command import Kind
from dinov3.engine.job import Job
from dinov3.engine.module_task import ModuleTask
from dinov3.engine.resume import images_a_step
from dinov3.engine.schedules import RateSchedules, build_rates
from dinov3.engine.task import Counters
from dinov3.finetune.headed.stream import ViewBatch, ViewStream
from dinov3.finetune.stream import Places
from dinov3.models.backbone import Backbone
from dinov3.models.da3 import PATCH, VARIANTS, DA3Encoder, DA3Spec, patch_grid
from dinov3.runs.start import Start
from dinov3.system.cores import usable_workers
from dinov3.system.files import write_json
from dinov3.teachers.da3_backbone import Da3Backbone
from dinov3.weights.reading.da3_checkpoint import CONFIG_FILE, WEIGHTS_FILE
from dinov3.weights.tensor_file import write_tensor_file

VARIANT, MODEL_NAME = "small", "da3-small"
SPEC = DA3Spec(embed_dim=96, depth=4, num_heads=3, alt_start=2)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of DA3's images
CELLS = 7  # depths a patch side, so that a token has to know the shape inside its patch
LARGEST = 1.6  # times the crop's side that a picture is resized to: crops of 0.4 of its area and more
FOLDER = "da3"  # of a checkpoint


def put_in_place() -> None:
    """``da3.variant: small`` means ``SPEC`` in this process: 0.6 M weights instead of 22 M."""
    VARIANTS[VARIANT] = SPEC


@dataclass
class TeacherLoopConfig(LoopConfig):
    pictures: int = key(4000, "synthetic scenes", ge=1, fixed=True)
    source_seed: int = key(7, "of the scenes", ge=0, fixed=True)
    side: int = key(64, "of a scene", unit="px", ge=16, fixed=True)
    crop: int = key(84, "side of what the encoder sees; a multiple of 14", unit="px", ge=PATCH, fixed=True)


@dataclass
class TeacherConfig(RunBlocks):
    train: TeacherLoopConfig = key(TeacherLoopConfig, "scenes, batch, run folder, seed, length")


class DepthReader(nn.Module):
    """Images ``[N, 3, H, W]`` to ln depth ``[N, 1, h, w]``, ``CELLS`` a patch side, read linearly off the encoder's last tokens."""

    def __init__(self, encoder: DA3Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.read = nn.Linear(encoder.embed_dim, CELLS**2)

    def forward(self, images: Tensor) -> Tensor:
        cells: Tensor = self.read(self.encoder(images))  # [N, P, CELLS^2]
        return F.pixel_shuffle(cells.mT.unflatten(2, patch_grid(images)), CELLS)


def log_cells(depths: Tensor, size: Sequence[int]) -> Tensor:
    """Mean ln depth ``[N, 1, *size]`` of ``depths [N, H, W]`` above 0."""
    return F.adaptive_avg_pool2d(depths.log()[:, None], (size[0], size[1]))


class TeacherTask(ModuleTask[ViewBatch]):
    """The encoder with its reader."""

    def loss(self, batch: ViewBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean absolute error of ln depth, sky included."""
        said = self.trained["reader"](batch.images)
        value = l1_loss(said, log_cells(batch.truths, said.shape[-2:]), torch.ones_like(said, dtype=torch.bool))
        return value, {"log_depth_error": value}

    def products(self, *, copy: bool) -> Callable[[Path], None]:
        reader = self.trained["reader"]
        assert isinstance(reader, DepthReader)
        state = {name: value.detach().cpu().clone() for name, value in reader.encoder.state_dict().items()}
        return lambda folder: write_official(folder / FOLDER, state)


def write_official(folder: Path, state: dict[str, Tensor]) -> None:
    """An encoder's ``state`` as an official folder, with the file names and keys of the published ones."""
    folder.mkdir(parents=True)
    write_tensor_file({f"model.backbone.{name}": value for name, value in state.items()}, folder / WEIGHTS_FILE)
    write_json(folder / CONFIG_FILE, {"model_name": MODEL_NAME, "made_by": "benchmarks/da3_teacher.py"})


class TeacherJob(Job[ViewBatch]):
    """The encoder on random crops of whole scenes."""

    cfg: TeacherConfig
    product = "teacher"

    def open_data(self) -> str:
        return self._measured().content()

    def plan(self) -> RateSchedules:
        return build_rates(self.cfg.optim, max(1, self.cfg.train.pictures // images_a_step(self.cfg)))

    def build(self, start: Start, device: torch.device) -> tuple[TeacherTask, list[str]]:
        encoder = DA3Encoder(SPEC)
        encoder.init_weights(torch.Generator().manual_seed(self.cfg.train.seed))
        reader = DepthReader(encoder)
        nn.init.zeros_(reader.read.weight)
        nn.init.ones_(reader.read.bias)  # ln depth is about 1 where there is no sky
        return TeacherTask(nn.ModuleDict({"reader": reader}), device, seed=self.cfg.train.seed), []

    def stream(self, task: TeacherTask, counters: Counters) -> ViewStream:
        train = self.cfg.train
        rules = Augment((train.crop, train.crop), fill=1.0, short_side=train.crop, ratio=(1.0, LARGEST))
        return ViewStream(
            self._measured(),
            Crops(Feeding(MEAN, STD), rules),
            "depth view",
            Places(train.pictures, train.seed, counters.samples, train.batch_size_per_gpu),
            task.device,
            threads=usable_workers(train.num_workers),
            max_bad_frac=0.0,
            on_bad=BadSampleLog(self.run.bad_samples),
        )

    def _measured(self) -> MeasuredSet:
        train = self.cfg.train
        source = Synthetic(n=train.pictures, size=train.side, seed=train.source_seed, near=2)
        return MeasuredSet(SyntheticTruth(source, "depth"), 0.5, 60.0, USUAL)


class Probed(Backbone):
    """A loaded teacher as the probes want a backbone; it has no class token, so ``cls`` is the mean patch."""

    def __init__(self, teacher: Da3Backbone) -> None:
        super().__init__()
        self.teacher, self.head = teacher, nn.Identity()
        self.embed_dim, self.in_chans, self.n_storage_tokens = teacher.backbone.embed_dim, 3, 0
        self.stride = self.patch_size = PATCH
        self.n_blocks = len(teacher.backbone.pretrained.blocks)

    def encode(
        self, entries: Sequence[Tensor], masks: Sequence[Tensor | None], read: Tensor | None = None
    ) -> list[Features]:
        """Of whole images; masks are not looked at."""
        found = []
        for images in entries:
            patches = self.teacher(images)  # [N, P, D]
            found.append(Features(patches.mean(1), patches[:, :0], patches, patches, patch_grid(images)))
        return found

    def get_intermediate_layers(self, *args: object, **options: object) -> None:
        """The probes read the output alone: asking for inner layers is a mistake in the benchmark."""
        raise NotImplementedError("only the output of a DA3 teacher is measured here")


def main(argv: list[str] | None = None) -> int:
    return Kind(Schema(TeacherConfig), lambda: TeacherJob).main("da3_teacher", "Train the geometry teacher.", argv)


if __name__ == "__main__":
    sys.exit(main())
