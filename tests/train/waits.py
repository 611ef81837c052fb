"""Where a training step waits for its device: ``python -m tests.train.waits [RECIPE ...]``.

For every recipe one JSON line: the places where the host reads the device or copies to it from pageable memory, and the
error that ended the step, if one did.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dinov3.config.load import load_config
from dinov3.config.schema import Config
from dinov3.contracts import CropBatch
from dinov3.engine.optim import build_optimizer
from dinov3.engine.schedules import build_schedules
from dinov3.engine.step import train_step
from dinov3.runs.state import allocate_optimizer_state
from dinov3.train.ssl_meta_arch import SSLMetaArch
from dinov3.train.task import Pretraining
from tests.accelerator_of_nothing import NAME, Waits, start
from tests.train.tiny import OVERRIDES

MASKED = 11  # patches of a batch
RECIPES: dict[str, dict[str, object]] = {
    "default": {},
    "a logged step": {"train.log_every": 1},
    "centering": {"train.centering": "centering"},
    "gram": {"gram.use_loss": True, "gram.ema_teacher": True},
    "gram with a teacher of its own": {"gram.use_loss": True, "gram.rep_update": True, "gram.it_load_ema_teacher": 0},
    "gram of masked tokens": {"gram.use_loss": True, "gram.ema_teacher": True, "gram.tokens_used": "masked"},
    "feature anchor": {"feature_anchor.enabled": True},
    "LoRA": {"lora.enabled": True},
    "distributed KoLeo": {"dino.koleo_loss_distributed": True},
    "checkpointing": {"train.checkpointing": True},
    "full checkpointing": {"train.checkpointing_full": True},
    "augmented positions": {"student.pos_embed_rope_rescale_coords": 2.0, "student.pos_embed_rope_jitter_coords": 1.1},
    "untied norms": {"student.untie_cls_and_patch_norms": True, "student.untie_global_and_local_cls_norm": True},
    "SwiGLU": {"student.ffn_layer": "swiglu"},
}


def batch_on(device: torch.device, cfg: Config) -> CropBatch:
    n, large, small = cfg.train.batch_size_per_gpu, cfg.crops.global_crops_size, cfg.crops.local_crops_size
    assert isinstance(large, int)
    assert isinstance(small, int)
    patches = (large // cfg.student.patch_size) ** 2
    return CropBatch(
        collated_global_crops=torch.empty(2 * n, 3, large, large, device=device),
        collated_local_crops=torch.empty(cfg.crops.local_crops_number * n, 3, small, small, device=device),
        collated_masks=torch.empty(2 * n, patches, dtype=torch.bool, device=device),
        mask_indices_list=torch.empty(MASKED, dtype=torch.int64, device=device),
        masks_weight=torch.empty(MASKED, device=device),
        n_masked_patches=torch.empty(1, dtype=torch.int64, device=device),
        upperbound=MASKED,
        global_batch_size=n,
    )


def waits_of_a_step(changes: dict[str, object]) -> list[str]:
    """Where the second step of this recipe waits; it is not a logged one."""
    keys = OVERRIDES | {"train.batch_size_per_gpu": 2, "train.log_every": 100} | changes
    cfg, device, waits = load_config(None, [f"{k}={v}" for k, v in keys.items()]), torch.device(NAME, 0), Waits()
    model = SSLMetaArch(cfg, device)
    model.init_weights()
    model.prepare_for_distributed_training()
    task = Pretraining(model)
    optimizer = build_optimizer(task.groups(), cfg.optim)
    allocate_optimizer_state(optimizer)
    schedules, batch = build_schedules(cfg, world_size=1), batch_on(device, cfg)
    step: Callable[[int], object] = lambda i: train_step(  # noqa: E731
        task, optimizer, schedules.at(i), batch, step=i, clip_grad=3.0
    )
    with waits:
        step(0)
        waits.places.clear()
        step(1)
    return list(dict.fromkeys(waits.places))


def main(names: Sequence[str]) -> int:
    if not start():
        print(json.dumps({"missing": "this torch has no device without values"}))
        return 0
    for name in names or RECIPES:
        row: dict[str, Any] = {"recipe": name, "error": None}
        try:
            with FakeTensorMode():
                row["waits"] = waits_of_a_step(RECIPES[name])
        except Exception as error:  # noqa: BLE001 it is the answer
            last = [f for f in traceback.extract_tb(error.__traceback__) if "/dinov3/" in f.filename][-1]
            row["error"] = f"{type(error).__name__} in {last.filename.rpartition('/dinov3/')[2]} {last.name}: {error}"
        print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
