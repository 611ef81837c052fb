"""Blocks that are compiled inside FSDP2's hooks compute what the others do, from one graph."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from dinov3.data.loader import CropLoader
from dinov3.data.sources import parse_dataset
from dinov3.distributed import context
from dinov3.engine.optim import clip_per_submodule
from dinov3.train.parallelize import compile_module
from dinov3.train.ssl_meta_arch import SSLMetaArch
from tests.distributed.processes import Phase, run_phases
from tests.train.tiny import tiny_config

DEPTH = 4


def one_step(folder: Path, *, compiled: bool) -> None:
    cfg = tiny_config(
        student__depth=DEPTH,
        student__drop_path_rate=0.0,
        student__layerscale=1.0,
        train__checkpointing="true",
        train__compile="false",
        compute_precision__sharding_strategy="FULL_SHARD",
    )
    model = SSLMetaArch(cfg)
    model.init_weights(torch.Generator().manual_seed(0))
    if compiled:
        for module in (*model.student.values(), *model.model_ema.values()):
            compile_module(module, in_blocks=True)
    model.prepare_for_distributed_training()
    shared = {"position": 0, "rank": context.rank(), "world_size": context.world_size(), "dtype": torch.float32}
    with CropLoader(cfg, parse_dataset(cfg.train.dataset_path), device=torch.device("cpu"), **shared) as loader:
        loss, _ = model.forward_backward(next(loader), teacher_temp=0.04, iteration=0)
    norms = clip_per_submodule(model.student, None)
    if context.is_main():
        figures = torch.stack([loss, *norms.values()])
        torch.save((figures, counters["stats"]["unique_graphs"]), folder / f"{compiled}.pt")


def plain(folder: Path) -> None:
    one_step(folder, compiled=False)


def compiled(folder: Path) -> None:
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    one_step(folder, compiled=True)


@pytest.mark.nightly
def test_compiled_blocks_of_a_sharded_model_share_one_graph_and_change_nothing(tmp_path: Path) -> None:
    run_phases([Phase(plain, 2), Phase(compiled, 2)], tmp_path)
    (expected, none), (figures, graphs) = (torch.load(tmp_path / f"{c}.pt") for c in (False, True))
    torch.testing.assert_close(figures, expected, rtol=1e-4, atol=0)
    assert none == 0
    # block, DINO head and iBOT head, each with and without gradients; 2 more where a head meets a new number of rows
    assert graphs <= 8 < 2 * DEPTH + 4
