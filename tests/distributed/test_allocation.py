from __future__ import annotations

import os

import pytest
import torch

from dinov3.config.errors import ConfigError
from dinov3.distributed.allocation import COUNTS, LISTS, allocated_gpus
from dinov3.distributed.context import choose_device
from dinov3.features.extract import FeatureExtractor


@pytest.mark.parametrize(
    ("env", "found"),
    [
        ({}, None),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, "CUDA_VISIBLE_DEVICES=0,1"),
        ({"CUDA_VISIBLE_DEVICES": "MIG-7f0e", "SLURM_JOB_GPUS": "0"}, "CUDA_VISIBLE_DEVICES=MIG-7f0e"),
        ({"CUDA_VISIBLE_DEVICES": ""}, None),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, None),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, None),  # SLURM, for a job without GPUs
        ({"CUDA_VISIBLE_DEVICES": "", "SLURM_GPUS_ON_NODE": "4"}, None),  # taken away on purpose
        ({"SLURM_JOB_GPUS": "0,1"}, "SLURM_JOB_GPUS=0,1"),
        ({"SLURM_STEP_GPUS": "2"}, "SLURM_STEP_GPUS=2"),
        ({"SLURM_GPUS_ON_NODE": "4"}, "SLURM_GPUS_ON_NODE=4"),
        ({"SLURM_GPUS_ON_NODE": "0"}, None),
        ({"SLURM_GPUS_PER_NODE": "a100:4"}, "SLURM_GPUS_PER_NODE=a100:4"),
        ({"SLURM_GPUS": "", "SLURM_GPUS_PER_TASK": "x", "SLURM_GPUS_ON_NODE": "²"}, None),
        ({"ROCR_VISIBLE_DEVICES": "0"}, "ROCR_VISIBLE_DEVICES=0"),
    ],
)
def test_what_schedulers_and_users_say_about_gpus(env: dict[str, str], found: str | None) -> None:
    assert allocated_gpus(env) == found


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in (*LISTS, *COUNTS):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_gpus_that_are_given_and_not_seen_are_an_error_that_says_what_allows_it(no_gpu: pytest.MonkeyPatch) -> None:
    no_gpu.setenv("SLURM_JOB_GPUS", "0,1")
    with pytest.raises(ConfigError) as caught:
        choose_device("auto")
    assert "torch sees no GPU although SLURM_JOB_GPUS=0,1" in str(caught.value)
    assert "train.device=cpu" in str(caught.value)
    with pytest.raises(ConfigError, match="torch sees no GPU"):
        FeatureExtractor(torch.nn.Identity(), None)  # type: ignore[arg-type]
    assert choose_device("cpu") == torch.device("cpu")
    no_gpu.setenv("CUDA_VISIBLE_DEVICES", "")
    assert choose_device("auto") == torch.device("cpu")


def test_a_machine_without_gpus_trains_on_its_cpu(no_gpu: pytest.MonkeyPatch) -> None:
    assert choose_device("auto") == torch.device("cpu")
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
