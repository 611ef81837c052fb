"""Self-supervised pretraining as a task of the trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from dinov3.config.derived import largest_global_crop
from dinov3.contracts import CropBatch
from dinov3.distributed.shard import gather
from dinov3.engine.optim import ParamGroup
from dinov3.engine.schedules import StepSchedule
from dinov3.engine.task import StepLoss
from dinov3.models.backbone import Backbone
from dinov3.train.accumulation import accumulate
from dinov3.train.ssl_meta_arch import SSLMetaArch
from dinov3.weights.own import write_backbone
from dinov3.weights.pretrained import as_json


class Pretraining:
    """``SSLMetaArch`` under the names the trainer calls."""

    def __init__(self, model: SSLMetaArch) -> None:
        self._model = model

    @property
    def model(self) -> SSLMetaArch:
        return self._model

    @property
    def device(self) -> torch.device:
        return self._model.precision.device

    @property
    def trained(self) -> nn.ModuleDict:
        return self._model.student

    def groups(self) -> list[ParamGroup]:
        return self._model.get_params_groups()

    def before_step(self, step: int) -> None:
        self._model.before_step(step)

    def gradients(self, batches: Sequence[CropBatch], step: int, now: StepSchedule) -> StepLoss:
        return StepLoss(*accumulate(self._model, batches, teacher_temp=now.teacher_temp, iteration=step))

    def finish_backward(self) -> None:
        self._model.finish_backward()

    def after_step(self, step: int, now: StepSchedule) -> None:
        self._model.after_step(step, now.momentum)

    def state(self) -> dict[str, Tensor]:
        return self._model.checkpoint_state()

    def facts(self) -> dict[str, Any]:
        return {"pretrained": as_json(self._model.pretrained)}

    def products(self, *, copy: bool) -> Callable[[Path], None]:
        """The EMA backbone as a file of its own."""
        crops = self._model.cfg.crops
        size = largest_global_crop(self._model.cfg)
        preprocess = {"mean": crops.rgb_mean, "std": crops.rgb_std, "size": size}
        if (white := self._model.cfg.data.value_range) is not None:
            preprocess["value_range"] = white
        backbone = self.whole_backbone("cpu", copy=copy)

        def write(folder: Path) -> None:
            assert backbone is not None  # this is the main process
            write_backbone(folder, backbone, preprocess)

        return write

    def whole_backbone(self, device: torch.device | str, *, copy: bool = False) -> Backbone | None:
        """The EMA backbone; when it is sharded or a ``copy`` is wanted, a new one on the main process's ``device`` and None
        on the others.

        Every process must call it.
        """
        backbone = cast(Backbone, self._model.model_ema["backbone"])
        if not self._model.parallel.shards and not copy:
            return backbone

        def empty() -> nn.Module:
            return self._model.like_student()["backbone"].to_empty(device=device).eval()

        return cast(Backbone | None, gather(backbone, empty))
