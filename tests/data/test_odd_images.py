"""Every odd file becomes the right pixels or a refusal with a reason; a run over a folder of them ends as it should."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinov3.data.decode import decode
from dinov3.data.errors import BadImage
from dinov3.data.sources import parse_dataset
from dinov3.train.command import main
from tests.data.odd_images import odd_images
from tests.train.tiny import command

KINDS = odd_images()


@pytest.mark.parametrize("kind", KINDS)
def test_an_odd_file_is_the_right_picture_or_a_reason(kind: str) -> None:
    odd = KINDS[kind]
    if odd.pixels is None:
        with pytest.raises(BadImage, match=odd.reason):
            decode(odd.data)
        return
    pixels = decode(odd.data)
    assert (pixels.dtype, pixels.shape) == (np.uint8, odd.pixels.shape)
    assert np.abs(pixels.astype(float) - odd.pixels).mean() <= odd.tolerance


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """480 pictures, 24 of them odd: 5 %."""
    root, scenes = tmp_path / "pictures", parse_dataset("Synthetic:n=24:size=40")
    root.mkdir()
    for n in range(480 - len(KINDS)):
        if n < 24:
            Image.fromarray(np.asarray(scenes.read(n))).save(root / f"{n}.jpg")
        else:
            (root / f"{n}.jpg").hardlink_to(root / f"{n % 24}.jpg")
    for n, odd in enumerate(KINDS.values()):
        (root / f"odd-{n}.{odd.suffix}").write_bytes(odd.data)
    return root


def test_a_run_over_a_folder_with_5_percent_odd_files_ends_and_counts_them(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    steps = {"train__OFFICIAL_EPOCH_LENGTH": 8, "train__batch_size_per_gpu": 20, "train__num_workers": 1}
    words = command(out, train__dataset_path=folder, data__max_bad_frac=0.1, evaluation__pictures="false", **steps)
    assert main(words) == 0  # 24 steps of 20: every file once
    rows = [json.loads(line) for line in (out / "bad_samples.jsonl").read_text().splitlines()]
    refused = {f"{folder}/odd-{n}.{odd.suffix}": odd.reason for n, odd in enumerate(KINDS.values()) if odd.reason}
    assert sorted(row["name"] for row in rows) == sorted(refused)
    assert all(re.search(refused[row["name"]], row["reason"]) for row in rows)
    losses = [json.loads(line)["total_loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 24
    assert np.isfinite(losses).all()


def test_the_same_folder_ends_the_run_with_74_when_that_is_too_many(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command(tmp_path / "run", train__dataset_path=folder, data__max_bad_frac=0, train__batch_size_per_gpu=20)
    assert main([*words, "evaluation.pictures=false"]) == 74
    assert "data.max_bad_frac is 0: mend the data or raise it" in capsys.readouterr().err
