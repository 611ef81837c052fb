"""Images of one and of five channels from the check of the data to the last step: statistics of their own, no colour operations."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from dinov3 import cli
from dinov3.data.sources import parse_dataset
from dinov3.survey.report import report_of
from dinov3.survey.survey import survey
from dinov3.train.command import main
from dinov3.weights.own import load_backbone
from tests.train.tiny import OVERRIDES, overrides, tiny_config


def stacks(path: Path, channels: int, images: int = 24) -> str:
    """HDF5 of smooth stacks whose channels differ in brightness."""
    rng = np.random.default_rng(0)
    rows, columns, channel = np.mgrid[0:40, 0:50, 0:channels]
    pixels = [
        (20 + 30 * channel + 20 * np.sin(rows / rng.uniform(3, 9)) + 20 * np.cos(columns / rng.uniform(3, 9) + channel))
        for _ in range(images)
    ]
    with h5py.File(path, "w") as file:
        file["images"] = np.stack(pixels).clip(0, 255).astype(np.uint8)
    return f"HDF5:root={path}"


@pytest.mark.parametrize("channels", [1, 5])
def test_a_run_with_the_statistics_of_the_data_check_trains_a_backbone_of_so_many_channels(
    channels: int, tmp_path: Path
) -> None:
    dataset = stacks(tmp_path / "images.h5", channels)
    source = parse_dataset(dataset)
    text = "\n".join(report_of(dataset, source, survey(source), tiny_config()).yaml_lines())
    means = yaml.safe_load(text)["crops"]["rgb_mean"]
    assert len(means) == channels
    assert np.all(np.diff([float(mean) for mean in means]) > 0.05)  # each channel has its own
    (tmp_path / "own.yaml").write_text(text)
    words = overrides(
        train__dataset_path=dataset, train__max_steps=2, train__num_workers=1, crops__augmentation="histology"
    )
    out = tmp_path / "run"
    assert main(["--config-file", str(tmp_path / "own.yaml"), "--output-dir", str(out), *words]) == 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert np.isfinite([row["total_loss"] for row in rows]).all()
    assert load_backbone(out).patch_embed.proj.weight.shape[1] == channels


def test_the_picture_of_the_data_check_shows_five_channels(tmp_path: Path) -> None:
    dataset = stacks(tmp_path / "images.h5", 5)
    crops = [f"{k}={v}" for k, v in OVERRIDES.items() if k.startswith(("crops.", "student."))]
    fives = ["student.in_chans=5", "crops.rgb_mean=[0.1,0.2,0.3,0.4,0.5]", "crops.rgb_std=[0.1,0.1,0.1,0.1,0.1]"]
    out = tmp_path / "out"
    words = ["data", "check", dataset, "--workers", "0", "--out", str(out), *crops, *fives]
    assert cli.main([*words, "train.batch_size_per_gpu=4"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["crops.png", "report.json"]
    assert list(json.loads((out / "report.json").read_text())["channels"]) == ["5"]
