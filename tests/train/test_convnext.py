"""A ConvNeXt from the first step to the features of the saved backbone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dinov3 import features
from dinov3.config.archs import CONVNEXT_ARCHS
from dinov3.runs.checkpoint import read_tensors, step_folders
from dinov3.runs.state import digest
from dinov3.system.rows import read_rows
from dinov3.train.command import main
from tests.train.tiny import command

VIT = ("student.embed_dim=", "student.depth=", "student.num_heads=")


def words(out: Path, **changes: object) -> list[str]:
    given = command(
        out,
        student__arch="convnext_tiny",
        student__patch_size=32,
        student__n_storage_tokens=0,
        crops__global_crops_size=96,
        crops__local_crops_size=64,
        train__dataset_path="Synthetic:n=40:size=96",
        **changes,
    )
    return [word for word in given if not word.startswith(VIT)]


def test_a_convnext_is_trained_measured_saved_and_continued_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CONVNEXT_ARCHS, "convnext_tiny", {"depths": [1, 1, 2, 1], "dims": [8, 12, 16, 24]})
    labelled = {"evaluation__knn__train": "Synthetic:n=20:size=64", "evaluation__knn__test": "Synthetic:n=10:size=64"}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main(words(whole, train__max_steps=4, **labelled)) == 0
    assert [row["step"] for row in read_rows(whole / "evaluation.jsonl")] == [0, 4]
    assert main(words(stopped, train__max_steps=2, **labelled)) == 0
    assert main(words(stopped, train__max_steps=4, **labelled)) == 0
    states = [digest(read_tensors(step_folders(run)[-1] / "state", prefix="")) for run in (whole, stopped)]
    assert states[0] == states[1]
    look = features.load(whole, size="train", device="cpu")
    assert look.extract(torch.zeros(1, 3, 96, 96)).grid == (3, 3)
