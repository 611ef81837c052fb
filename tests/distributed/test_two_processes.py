from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dinov3.engine.checkpoint import read_tensors, step_folders
from dinov3.engine.metrics import read_metrics
from tests.train.tiny import command

# The same global batch of 8 on 1 or 2 processes; drop path draws by process, and KoLeo must see the whole batch.
# With LayerScale 1e-5 all class tokens are almost equal at first, and KoLeo's log of their distances (9.3 in this
# model) turns the last bit of a sum into per cents.
SAME = {"student__drop_path_rate": 0.0, "student__layerscale": 1.0, "dino__koleo_loss_distributed": "true"}


def launch(out: Path, n: int, **changes: object) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(n), "--master-port", str(port)]
    changes = {"train__batch_size_per_gpu": 8 // n, **SAME, **changes}
    arguments += ["-m", "dinov3.train", *command(out, **changes)]
    done = subprocess.run(arguments, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]


def losses(out: Path) -> list[list[float]]:
    keys = ("total_loss", "dino_local_crops_loss", "dino_global_crops_loss", "ibot_loss", "koleo_loss")
    return [[row[k] for k in keys] for row in read_metrics(out / "metrics.jsonl")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    launch(out, 1, train__max_steps=6)
    return out


def test_two_processes_train_as_one_does_on_the_joined_batch(alone: Path, tmp_path: Path) -> None:
    launch(tmp_path, 2, train__max_steps=6)
    torch.testing.assert_close(torch.tensor(losses(tmp_path)), torch.tensor(losses(alone)), rtol=1e-5, atol=1e-6)
    states = [read_tensors(step_folders(out)[-1] / "state", prefix="model_ema.") for out in (tmp_path, alone)]
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=1e-3, atol=1e-5)


def test_two_processes_that_accumulate_two_batches_are_one_process_as_well(alone: Path, tmp_path: Path) -> None:
    parts = {"train__batch_size_per_gpu": 2, "train__gradient_accumulation_steps": 2}
    launch(tmp_path, 2, train__max_steps=3, **parts)
    torch.testing.assert_close(torch.tensor(losses(tmp_path)), torch.tensor(losses(alone))[:3], rtol=1e-5, atol=1e-6)


def test_a_run_of_two_processes_is_continued_by_one_and_back(alone: Path, tmp_path: Path) -> None:
    allow = {"resume__allow": "[train.batch_size_per_gpu]"}
    for n, until in ((2, 2), (1, 4), (2, 6)):
        launch(tmp_path, n, train__max_steps=until, **allow)
    assert [row["samples"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [8 * (i + 1) for i in range(6)]
    torch.testing.assert_close(torch.tensor(losses(tmp_path)), torch.tensor(losses(alone)), rtol=1e-5, atol=1e-6)


def test_the_same_holds_with_a_depth_anything_teacher(tmp_path: Path) -> None:
    da3 = {"da3__enabled": "true", "da3__random_init": "true", "da3__variant": "small", "da3__dtype": "fp32"}
    values = []
    for n in (1, 2):
        launch(tmp_path / str(n), n, train__max_steps=3, **da3)
        rows = read_metrics(tmp_path / str(n) / "metrics.jsonl")
        values.append([[r["total_loss"], r["da3_mim_loss"], r["da3_cos_mean"], r["da3_cos_std"]] for r in rows])
    torch.testing.assert_close(torch.tensor(values[1]), torch.tensor(values[0]), rtol=1e-5, atol=1e-6)
