from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinov3.runs.records import Records
from dinov3.runs.sinks.tensorboard_sink import TensorBoardSink

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def records(out: Path, resume_at: int = 0) -> Records:
    return Records(out, resume_at, lambda: [TensorBoardSink(out, resume_at, "train: {seed: 0}")])


def test_curves_pictures_and_the_config_are_there_and_replayed_steps_once(tmp_path: Path) -> None:
    first = records(tmp_path)
    for step in range(4):
        first.write({"iteration": step, "total_loss": float(step), "note": "text", "flag": True})
    first.close()
    second = records(tmp_path, resume_at=2)
    for step in range(2, 5):
        second.write({"iteration": step, "total_loss": 10.0 + step})
    second.evaluation({"step": 5, "knn_accuracy": 0.5})
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "pca.png")
    second.picture(tmp_path / "pca.png", 5)
    second.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/total_loss")] == [
        (0, 0),
        (1, 1),
        (2, 12),
        (3, 13),
        (4, 14),
    ]
    assert [(e.step, e.value) for e in events.Scalars("evaluation/knn_accuracy")] == [(5, 0.5)]
    assert events.Images("pca")[0].step == 5
    tags = events.Tags()
    assert not {"train/note", "train/flag"} & set(tags["scalars"])
    assert tags["tensors"] == ["config/text_summary"]
