from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.tensor import DTensor

from dinov3.teachers.da3 import Da3Teacher
from tests.train.tiny import tiny_config

SETTINGS = {"da3__enabled": "true", "da3__random_init": "true", "da3__variant": "small", "da3__dtype": "fp32"}


def tokens_of(use_fsdp: bool) -> tuple[Da3Teacher, torch.Tensor]:
    torch.set_num_threads(1)
    cfg = tiny_config(**SETTINGS, da3__use_fsdp=use_fsdp)
    teacher = Da3Teacher(cfg, torch.device("cpu"))
    images = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    return teacher, teacher.tokens(images, (4, 4))


def _one_of_two(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    teacher, tokens = tokens_of(use_fsdp=True)
    assert teacher.sharded
    parameters = list(teacher.model.parameters())
    assert all(isinstance(p, DTensor) for p in parameters)
    own = sum(p.to_local().numel() for p in parameters if isinstance(p, DTensor))
    torch.save({"tokens": tokens, "share": own / sum(p.numel() for p in parameters)}, folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_a_sharded_teacher_says_the_same_and_each_process_keeps_half(tmp_path: Path) -> None:
    mp.spawn(_one_of_two, args=(tmp_path,), nprocs=2)
    teacher, expected = tokens_of(use_fsdp=True)
    assert not teacher.sharded, "one process has nothing to share with"
    for rank in range(2):
        result = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(result["tokens"], expected, rtol=0, atol=1e-6)
        assert 0.45 < result["share"] < 0.55
