from __future__ import annotations

from pathlib import Path

import pytest

from dinov3.config.schema import Config


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lists of images are kept in a folder of the test."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return cache


@pytest.fixture(autouse=True)
def always_on_one_thread(one_thread: None) -> None:
    """As loader workers run."""


@pytest.fixture
def cfg() -> Config:
    """Small crops, 8 images a batch, no workers."""
    cfg = Config()
    cfg.train.batch_size_per_gpu, cfg.train.num_workers = 8, 0
    cfg.crops.global_crops_size, cfg.crops.local_crops_size, cfg.crops.local_crops_number = 32, 16, 4
    cfg.student.patch_size = 8
    return cfg
