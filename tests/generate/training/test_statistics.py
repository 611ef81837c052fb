from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dinov3.generate.shards import read_shard
from dinov3.generate.training import statistics
from dinov3.generate.training.shard_set import ShardSet
from dinov3.generate.training.statistics import Normaliser, statistics_of
from tests.generate.training.made import shard_set


@pytest.fixture
def shards(tmp_path: Path) -> ShardSet:
    return ShardSet(shard_set(tmp_path / "set"))


def test_they_are_mean_and_variance_of_each_channel_of_each_part(shards: ShardSet) -> None:
    samples = [s for path in sorted(shards.folder.rglob("*.tar")) for s in read_shard(path)]
    found = statistics_of(shards)
    patches = np.concatenate([s.patches for s in samples]).astype(np.float64)
    latents = np.concatenate([s.latent.reshape(3, -1) for s in samples if s.latent is not None], 1).astype(np.float64)
    for part, rows in (("patches", patches), ("latents", latents.T), ("cls", np.stack([s.cls for s in samples]))):
        np.testing.assert_allclose(found[part]["mean"], rows.astype(np.float64).mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[part]["var"], rows.astype(np.float64).var(0), rtol=1e-5)


def test_they_are_computed_once_and_again_for_other_shards_or_another_version(
    shards: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = statistics_of(shards)
    path = shards.folder / statistics.FILE
    kept = json.loads(path.read_text())
    assert kept["version"] == statistics.VERSION
    calls = []
    real = statistics.computed
    monkeypatch.setattr(statistics, "computed", lambda *a, **k: calls.append(1) or real(*a, **k))
    assert statistics_of(shards) == first
    assert calls == []
    for other in ({"version": 0}, {"of": "other"}, {"moments": {}}):
        path.write_text(json.dumps({**kept, **other}))
        assert statistics_of(shards) == first
    path.write_text("{")
    assert statistics_of(shards) == first
    assert len(calls) == 4


def test_normalised_channels_have_mean_0_and_variance_1_and_go_back(shards: ShardSet) -> None:
    normaliser = Normaliser.of(statistics_of(shards))
    samples = [s for path in sorted(shards.folder.rglob("*.tar")) for s in read_shard(path)]
    patches = normaliser("patches", torch.from_numpy(np.concatenate([s.patches for s in samples])))
    assert patches.dtype == torch.float32
    assert patches.mean(0).abs().max() < 1e-4
    assert (patches.var(0, correction=0) - 1).abs().max() < 1e-3
    assert samples[0].latent is not None
    latents = torch.from_numpy(samples[0].latent.copy())[None]
    torch.testing.assert_close(
        normaliser.back("latents", normaliser("latents", latents)), latents.float(), rtol=1e-5, atol=1e-5
    )
