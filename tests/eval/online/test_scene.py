"""Images with classes, for looks at a backbone in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dinov3.config.schema import Config
from dinov3.data.errors import DataError
from dinov3.data.sources import parse_dataset
from dinov3.eval.online.scene import LabelledPart, Scene
from dinov3.train.dataset import check_labelled


def classes(root: Path, *names: str) -> str:
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "a.jpg").write_bytes(b"x")
    return str(root)


class Told(Scene):
    """A scene whose backbone sees nothing."""

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg

    def _part(self, text: str, limit: int | None) -> LabelledPart:
        source = parse_dataset(text)
        labels: list[Any] = [source.label(i) for i in range(len(source))]
        return LabelledPart(source, torch.zeros(len(labels), 1), torch.tensor(labels), list(range(len(labels))))


def test_test_images_have_the_class_numbers_of_training_although_a_class_is_missing(tmp_path: Path) -> None:
    cfg = Config()
    cfg.evaluation.knn.train = classes(tmp_path / "train", "cat", "dog", "eel")
    cfg.evaluation.knn.test = classes(tmp_path / "test", "dog", "eel")
    check_labelled(cfg)
    assert Told(cfg).labelled[3].tolist() == [1, 2]
    classes(tmp_path / "test", "owl")
    with pytest.raises(DataError, match="owl"):
        check_labelled(cfg)
    with pytest.raises(DataError, match="owl"):
        Told(cfg).labelled  # noqa: B018
