from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dinov3.dense.video import video_features
from dinov3.dense.video.video_features import FrameWriter
from dinov3.features.cache import MANIFEST, FeatureSet
from dinov3.features.errors import FeatureError
from dinov3.features.tokens import Tokens


def tokens(grid: tuple[int, int], value: float) -> Tokens:
    return Tokens(torch.full((1, 4), value), torch.zeros(1, 0, 4), torch.full((1, grid[0] * grid[1], 4), value), grid)


def test_few_frames_wait_in_memory_and_all_are_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_features, "SHARD_BYTES", 3 * 4 * 6 * 4)  # three frames of 2x3 patches
    writer, waited = FrameWriter(tmp_path, {"weights": "x"}), []
    for number in range(7):
        writer.add(number, tokens((2, 3), float(number)))
        waited.append(len(writer._waiting))
    writer.add(9, tokens((3, 3), 9.0))  # another grid begins a shard
    found = FeatureSet(writer.finish([{"name": "frame 8", "reason": "broken"}]))
    assert max(waited) == 3
    assert len(found) == 8
    shards = list(found.shards())
    assert [shard["index"].tolist() for shard in shards] == [[0, 1, 2], [3, 4, 5], [6], [9]]
    assert shards[1]["patches"][2, 0, 0] == 5
    assert found.manifest["skipped"][0]["name"] == "frame 8"


def test_without_its_manifest_it_is_no_set(tmp_path: Path) -> None:
    writer = FrameWriter(tmp_path, {})
    writer.add(0, tokens((1, 1), 1.0))
    with pytest.raises(FeatureError, match=MANIFEST):
        FeatureSet(writer.out)
